//! How the vectors of a prompt's tokens become one vector.
//!
//! Must not know: where the vectors come from.

use crate::error::{Error, Result};

/// How the vectors of a prompt's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the last token, which knows all others.
    Last,
    /// That of the first token, for models that were trained to put the whole into it.
    Cls,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Last, Self::Cls];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Last => "last",
            Self::Cls => "cls",
        }
    }

    /// The one of this name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if there is none.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::InvalidArgument(format!("pooling is {text:?}; it must be one of {known}"))
        })
    }

    /// Takes note of the token at this place of a prompt.
    pub(super) fn add(self, pooled: &mut Vec<f32>, token: &[f32], place: usize, length: usize) {
        let wanted = match self {
            Self::Mean => true,
            Self::Last => place + 1 == length,
            Self::Cls => place == 0,
        };
        if wanted {
            pooled.resize(token.len(), 0.0);
            let share = if self == Self::Mean { 1.0 / length as f32 } else { 1.0 };
            pooled.iter_mut().zip(token).for_each(|(sum, value)| *sum += share * value);
        }
    }
}

/// A vector of zeros stays what it is.
pub(super) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        for value in vector {
            *value /= norm;
        }
    }
}
