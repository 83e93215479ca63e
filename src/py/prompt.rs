//! A prompt as Python gives it: text, a sequence of token ids, or a numpy array of them.

use numpy::{Element, PyArray1, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::values::numpy_is_imported;
use crate::backend::Token;
use crate::engine::Prompt;
use crate::error::{Error, Result};

pub(super) enum PyPrompt {
    Text(String),
    Tokens(Vec<Token>),
}

impl PyPrompt {
    /// As the engine takes it; text with the model's own tokens at both ends, if asked for.
    pub(super) fn for_engine(self, add_special: bool) -> Prompt {
        match self {
            Self::Text(text) => Prompt::Text { text, add_special },
            Self::Tokens(tokens) => Prompt::Tokens(tokens),
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for PyPrompt {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.extract() {
            return Ok(Self::Text(text));
        }
        if numpy_is_imported(object.py())?
            && let Ok(array) = object.cast::<PyUntypedArray>()
        {
            return Ok(Self::Tokens(of_array(&array)?));
        }
        let ids: Vec<i64> = object.extract()?;
        Ok(Self::Tokens(ids.into_iter().map(token).collect::<Result<_>>()?))
    }
}

fn of_array(array: &Bound<'_, PyUntypedArray>) -> Result<Vec<Token>> {
    fn all<T: Element + Copy + Into<i64>>(array: &Bound<'_, PyArray1<T>>) -> Result<Vec<Token>> {
        array.readonly().as_array().iter().map(|&id| token(id.into())).collect()
    }
    if let Ok(array) = array.cast::<PyArray1<i32>>() {
        return all(array);
    }
    if let Ok(array) = array.cast::<PyArray1<i64>>() {
        return all(array);
    }
    Err(Error::InvalidArgument(format!(
        "the prompt is an array of shape {:?} and dtype {}; token ids must have one dimension and \
         be int32 or int64",
        array.shape(),
        array.dtype()
    )))
}

/// The engine knows how large its vocabulary is; here it is only about the number's type.
fn token(id: i64) -> Result<Token> {
    Token::try_from(id).map_err(|_| {
        Error::InvalidArgument(format!(
            "the prompt holds token {id}; it must be from 0 to {}",
            Token::MAX
        ))
    })
}
