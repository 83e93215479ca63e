//! Values without parts: constants, strings and numbers, as right sides of rules.

use serde_json::{Map, Value};

use super::refuse;
use crate::engine::gbnf::MAX_REPEAT;
use crate::error::Result;

/// One of these values, all of which must be of the schema's types.
pub(super) fn one_of(schema: &Map<String, Value>, values: &[Value], at: &str) -> Result<String> {
    let types = match schema.get("type") {
        None => None,
        Some(Value::Array(types)) => Some(types.as_slice()),
        Some(kind) => Some(std::slice::from_ref(kind)),
    };
    let fits =
        |value: &&Value| types.is_none_or(|types| types.iter().any(|kind| is_a(value, kind)));
    match values.iter().find(|value| !fits(value)) {
        Some(value) => Err(refuse(&format!("the value {value} of another `type`"), at)),
        None => Ok(values.iter().map(literal).collect::<Vec<_>>().join(" | ")),
    }
}

fn is_a(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap_or_default() {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        _ => value.is_object(),
    }
}

pub(super) fn string(schema: &Map<String, Value>, at: &str) -> Result<String> {
    let (min, max) = bounds(schema, "minLength", "maxLength", at)?;
    let bounded = (min, max) != (0, None);
    match schema.get("format").map(|format| format.as_str().unwrap_or_default()) {
        None if !bounded => Ok("string".to_owned()),
        None => {
            let max = max.map_or(String::new(), |max| max.to_string());
            Ok(format!("\"\\\"\" char{{{min},{max}}} \"\\\"\""))
        }
        Some(_) if bounded => Err(refuse("`format` with a length", at)),
        Some(format @ ("date" | "time" | "uuid")) => Ok(format!("\"\\\"\" {format} \"\\\"\"")),
        Some("date-time") => Ok("\"\\\"\" date \"T\" time \"\\\"\"".to_owned()),
        Some(format) => Err(refuse(&format!("`format` {format:?}"), at)),
    }
}

pub(super) fn number(schema: &Map<String, Value>, kind: &str, at: &str) -> Result<&'static str> {
    let zero = |key: &str| match schema.get(key) {
        None => Ok(false),
        Some(value) if value.as_f64() == Some(0.0) => Ok(true),
        Some(value) => Err(refuse(&format!("`{key}` {value} (other than 0)"), at)),
    };
    match (kind, zero("minimum")?, zero("exclusiveMinimum")?) {
        ("integer", _, true) => Ok("positive"),
        ("integer", true, _) => Ok("natural"),
        ("integer", ..) => Ok("integer"),
        (_, _, true) => Err(refuse("`exclusiveMinimum` of a number", at)),
        (_, true, _) => Ok("unsigned"),
        _ => Ok("number"),
    }
}

pub(super) fn bounds(
    schema: &Map<String, Value>,
    min: &str,
    max: &str,
    at: &str,
) -> Result<(usize, Option<usize>)> {
    let bound = |key: &str| match schema.get(key) {
        None => Ok(None),
        Some(value) => match value.as_u64().map(|number| number as usize) {
            Some(number) if number <= MAX_REPEAT => Ok(Some(number)),
            _ => Err(refuse(&format!("`{key}` {value} (it may be 0 to {MAX_REPEAT})"), at)),
        },
    };
    let (min, max) = (bound(min)?.unwrap_or(0), bound(max)?);
    match max {
        Some(max) if max < min => Err(refuse(&format!("a length from {min} to {max}"), at)),
        _ => Ok((min, max)),
    }
}

/// This value as JSON, as a literal of the grammar.
pub(super) fn literal(value: &Value) -> String {
    format!("\"{}\"", value.to_string().replace('\\', "\\\\").replace('"', "\\\""))
}
