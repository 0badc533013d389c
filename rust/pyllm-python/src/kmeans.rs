//! `kmeans`.

use std::sync::atomic::Ordering;

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyllm_kmeans::{Points, Settings};
use pyo3::prelude::*;

use crate::error::{IntoPyErr, contiguous};
use crate::work;

/// Clusters, and the real row nearest each centroid.
#[pyclass(frozen, get_all, module = "pyllm._core")]
pub(crate) struct KMeansResult {
    /// Coordinates of each centroid.
    centroids: Py<PyArray2<f32>>,
    /// The nearest centroid of each row; ties go to the lowest.
    labels: Py<PyArray1<u32>>,
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

/// Exact, seeded K-Means: the same bytes for any number of threads (0 for all cores).
#[pyfunction]
#[pyo3(signature = (data, k, *, seed, max_iterations=100, tolerance=1e-4, sample_rows=0, threads=0))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn kmeans(
    py: Python<'_>,
    data: PyReadonlyArray2<'_, f32>,
    k: usize,
    seed: u64,
    max_iterations: u32,
    tolerance: f64,
    sample_rows: usize,
    threads: usize,
) -> PyResult<KMeansResult> {
    let dim = data.shape()[1];
    let points = Points::new(contiguous("data", &data)?, dim).map_err(IntoPyErr::into_py_err)?;
    let settings = Settings { k, seed, max_iterations, tolerance, sample_rows };
    let found = work::run(py, threads, |interrupted| {
        pyllm_kmeans::kmeans(points, &settings, &|| interrupted.load(Ordering::Relaxed))
    })?;
    let found = found.map_err(IntoPyErr::into_py_err)?;
    let centroids = PyArray1::from_vec(py, found.centroids).reshape([k, dim])?;
    Ok(KMeansResult {
        centroids: centroids.unbind(),
        labels: PyArray1::from_vec(py, found.labels).unbind(),
        cluster_sizes: PyArray1::from_vec(py, found.cluster_sizes).unbind(),
        nearest_rows: PyArray1::from_vec(py, found.nearest_rows).unbind(),
        nearest_distances: PyArray1::from_vec(py, found.nearest_distances).unbind(),
        inertia: found.inertia,
        iterations: found.iterations,
    })
}
