//! Sequences of numbers, in blocks.

use numpy::{Element, PyArray1, PyArrayMethods};
use pyo3::prelude::*;

/// Numbers in a block that is copied.
const BLOCK: usize = 2048;

/// Asking whether an object is an array imports numpy: to be done only if somebody has.
pub(super) fn numpy_is_imported(py: Python<'_>) -> PyResult<bool> {
    py.import("sys")?.getattr("modules")?.contains("numpy")
}

/// Hands over all values of a sequence in blocks: those of a contiguous numpy array of float64
/// where they lie, others as copies.
pub(super) fn for_each_value(
    values: &Bound<'_, PyAny>,
    mut take: impl FnMut(&[f64]),
) -> PyResult<()> {
    if numpy_is_imported(values.py())? {
        if let Ok(array) = values.cast::<PyArray1<f64>>() {
            let array = array.readonly();
            return match array.as_slice() {
                Ok(slice) => {
                    take(slice);
                    Ok(())
                }
                Err(_) => in_blocks(array.as_array().iter().map(|value| Ok(*value)), take),
            };
        }
        if let Ok(array) = values.cast::<PyArray1<f32>>() {
            return in_blocks(widened(array).into_iter().map(Ok), take);
        }
    }
    // All numbers are read before the first counts.
    let numbers: Vec<f64> =
        values.try_iter()?.map(|value| value?.extract()).collect::<PyResult<_>>()?;
    take(&numbers);
    Ok(())
}

fn widened<T: Element + Copy + Into<f64>>(array: &Bound<'_, PyArray1<T>>) -> Vec<f64> {
    array.readonly().as_array().iter().map(|value| (*value).into()).collect()
}

fn in_blocks(
    values: impl Iterator<Item = PyResult<f64>>,
    mut take: impl FnMut(&[f64]),
) -> PyResult<()> {
    let mut block = Vec::with_capacity(BLOCK);
    for value in values {
        block.push(value?);
        if block.len() == BLOCK {
            take(&block);
            block.clear();
        }
    }
    take(&block);
    Ok(())
}
