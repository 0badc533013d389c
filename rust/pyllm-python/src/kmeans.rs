//! `kmeans`.

use std::sync::atomic::Ordering;

use half::f16;
use numpy::{
    PyArray1, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyllm_kmeans::{Points, Settings};
use pyo3::prelude::*;

use crate::error::{BindingError, IntoPyErr, contiguous};
use crate::work;

/// Clusters, and the real row nearest each centroid.
#[pyclass(frozen, get_all, module = "pyllm._core")]
pub(crate) struct KMeansResult {
    /// Coordinates of each centroid.
    centroids: Py<PyArray2<f32>>,
    /// The nearest centroid of each row; ties go to the lowest.
    labels: Py<PyArray1<u32>>,
    /// Squared Euclidean distance of each row to its centroid.
    squared_distances: Py<PyArray1<f64>>,
    /// Rows of each cluster.
    cluster_sizes: Py<PyArray1<u64>>,
    /// The row nearest each centroid, no row twice.
    nearest_rows: Py<PyArray1<u64>>,
    /// Euclidean distance of each nearest row to its centroid.
    nearest_distances: Py<PyArray1<f64>>,
    /// Sum of the squared distances of all rows to their centroids.
    inertia: f64,
    /// Rounds over all rows in which centroids moved.
    iterations: u32,
}

/// The rows as Python gave them, borrowed.
enum Matrix<'py> {
    Single(PyReadonlyArray2<'py, f32>),
    Half(PyReadonlyArray2<'py, f16>),
}

impl<'py> Matrix<'py> {
    fn borrow(data: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(rows) = data.extract::<PyReadonlyArray2<'py, f32>>() {
            return Ok(Self::Single(rows));
        }
        if let Ok(rows) = data.extract::<PyReadonlyArray2<'py, f16>>() {
            return Ok(Self::Half(rows));
        }
        let found = match data.cast::<PyUntypedArray>() {
            Ok(array) => format!("{}-dimensional {}", array.ndim(), array.dtype().typeobj().name()?),
            Err(_) => data.get_type().name()?.to_string(),
        };
        Err(BindingError::RowType { name: "data", found }.into_py_err())
    }

    fn points(&self) -> PyResult<Points<'_>> {
        let points = match self {
            Self::Single(rows) => Points::new(contiguous("data", rows)?, rows.shape()[1]),
            Self::Half(rows) => Points::half(contiguous("data", rows)?, rows.shape()[1]),
        };
        points.map_err(IntoPyErr::into_py_err)
    }
}

/// Exact, seeded K-Means: the same bytes for any number of threads (0 for all cores).
#[pyfunction]
#[pyo3(signature = (
    data, k, *, seed, rows=None, max_iterations=100, tolerance=5e-3, sample_rows=0, initial_centroids=None, threads=0
))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn kmeans<'py>(
    py: Python<'py>,
    data: Bound<'py, PyAny>,
    k: usize,
    seed: u64,
    rows: Option<PyReadonlyArray1<'py, u32>>,
    max_iterations: u32,
    tolerance: f64,
    sample_rows: usize,
    initial_centroids: Option<PyReadonlyArray2<'py, f32>>,
    threads: usize,
) -> PyResult<KMeansResult> {
    let matrix = Matrix::borrow(&data)?;
    let mut points = matrix.points()?;
    if let Some(rows) = &rows {
        points = points.select(contiguous("rows", rows)?).map_err(IntoPyErr::into_py_err)?;
    }
    let settings = Settings { k, seed, max_iterations, tolerance, sample_rows };
    let initial = initial_centroids.as_ref().map(|centroids| contiguous("initial_centroids", centroids)).transpose()?;
    let found = work::run(py, threads, |interrupted| {
        let interrupted = || interrupted.load(Ordering::Relaxed);
        match initial {
            None => pyllm_kmeans::kmeans(points, &settings, &interrupted),
            Some(centroids) => pyllm_kmeans::kmeans_from(points, centroids, &settings, &interrupted),
        }
    })?;
    let found = found.map_err(IntoPyErr::into_py_err)?;
    let centroids = PyArray1::from_vec(py, found.centroids).reshape([k, points.dim()])?;
    Ok(KMeansResult {
        centroids: centroids.unbind(),
        labels: PyArray1::from_vec(py, found.labels).unbind(),
        squared_distances: PyArray1::from_vec(py, found.squared_distances).unbind(),
        cluster_sizes: PyArray1::from_vec(py, found.cluster_sizes).unbind(),
        nearest_rows: PyArray1::from_vec(py, found.nearest_rows).unbind(),
        nearest_distances: PyArray1::from_vec(py, found.nearest_distances).unbind(),
        inertia: found.inertia,
        iterations: found.iterations,
    })
}
