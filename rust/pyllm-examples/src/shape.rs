//! The shapes of instruction rows by name.

use std::fmt;
use std::str::FromStr;

/// How a row says what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Recognised row by row.
    Auto,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `instruction` and a list of `instances`.
    Nested,
    /// `question` and `answer`.
    Qa,
    /// `prompt` and a completion, or a prompt alone.
    Prompt,
    /// `text`.
    Text,
    /// `messages` with roles.
    Messages,
    /// `conversations` with `from` and `value`.
    Sharegpt,
    /// `turns`: what a user says, turn by turn.
    Turns,
    /// `choices`: what an assistant says.
    Choices,
}

impl Shape {
    /// All of them, in the order that messages name them in.
    pub const ALL: [Self; 10] = [
        Self::Auto,
        Self::Alpaca,
        Self::Nested,
        Self::Qa,
        Self::Prompt,
        Self::Text,
        Self::Messages,
        Self::Sharegpt,
        Self::Turns,
        Self::Choices,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Alpaca => "alpaca",
            Self::Nested => "nested",
            Self::Qa => "qa",
            Self::Prompt => "prompt",
            Self::Text => "text",
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Turns => "turns",
            Self::Choices => "choices",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// A name that is no shape's.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no known shape")]
pub struct UnknownShape(String);

impl FromStr for Shape {
    type Err = UnknownShape;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|shape| shape.as_str() == name).ok_or_else(|| UnknownShape(name.to_owned()))
    }
}
