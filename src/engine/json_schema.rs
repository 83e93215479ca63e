//! From a JSON schema to a grammar (GBNF) whose every text is JSON that the schema accepts.
//!
//! The other way round is not promised: where a schema leaves open what else may be there
//! (additional properties beside named ones, blanks, the order of properties), the grammar takes
//! one way. A keyword whose effect the grammar could not promise is refused by name.
//! Must not know: models, tokens.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::engine::gbnf::{MAX_REPEAT, MAX_SCHEMA_BYTES};
use crate::error::{Error, Result};

/// Keywords that say something about a value and ask nothing of it.
const ANNOTATIONS: [&str; 13] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
];

/// Rules of all grammars made here. Blanks are few, so that a model cannot go on with them for
/// ever; numbers have the digits of a double; escapes of half characters are left out.
const COMMON: &str = r#"ws ::= | " " | "\n" [ \t]{0,20}
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\bfnrt] | "/" | "u" ([0-9a-cA-CefEF] hex hex hex | [dD] [0-7] hex hex))
hex ::= [0-9a-fA-F]
string ::= "\"" char* "\""
integer ::= "-"? natural
natural ::= "0" | [1-9] [0-9]{0,15}
positive ::= [1-9] [0-9]{0,15}
fraction ::= ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
number ::= integer fraction
unsigned ::= natural fraction
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
object ::= "{" ws (member ("," ws member)* ws)? "}"
member ::= string ":" ws value
array ::= "[" ws (value ("," ws value)* ws)? "]"
date ::= [1-9] [0-9]{3} "-" (("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8]) | ("0" [13-9] | "1" [0-2]) "-" ("29" | "30") | ("0" [13578] | "1" [02]) "-31")
time ::= ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])
uuid ::= hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}
"#;

/// The grammar of a JSON schema.
///
/// Understood are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`,
/// `items`, `prefixItems`, `minItems`, `maxItems`, `minLength`, `maxLength`, `minimum` 0,
/// `exclusiveMinimum` 0 of integers, `format` (`date`, `time`, `date-time`, `uuid`), `anyOf`,
/// `oneOf` (read as `anyOf`), `allOf` of one schema, and `$ref` within the schema.
///
/// ```
/// use ryot_metrics::engine::json_schema_grammar;
/// let grammar = json_schema_grammar(r#"{"type": "array", "items": {"enum": [1, "a"]}}"#)?;
/// assert!(grammar.starts_with("root ::= "));
/// let error = json_schema_grammar(r#"{"type": "number", "multipleOf": 3}"#).unwrap_err();
/// assert_eq!(error.to_string(), "`multipleOf` at # of the JSON schema is not supported");
/// # Ok::<(), ryot_metrics::error::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::InvalidArgument`] that names what is not supported, and where.
pub fn json_schema_grammar(schema: &str) -> Result<String> {
    if schema.len() > MAX_SCHEMA_BYTES {
        let length = schema.len();
        return Err(Error::InvalidArgument(format!(
            "the JSON schema has {length} bytes; it must have at most {MAX_SCHEMA_BYTES}"
        )));
    }
    let root: Value = serde_json::from_str(schema)
        .map_err(|error| Error::InvalidArgument(format!("the JSON schema is no JSON: {error}")))?;
    let mut converter =
        Converter { root: &root, rules: String::new(), count: 0, references: HashMap::new() };
    let start = converter.reference("#", "#")?;
    Ok(format!("root ::= {start}\n{}{COMMON}", converter.rules))
}

fn refuse(what: &str, at: &str) -> Error {
    Error::InvalidArgument(format!("{what} at {at} of the JSON schema is not supported"))
}

struct Converter<'schema> {
    root: &'schema Value,
    rules: String,
    count: usize,
    /// The rules of schemas that `$ref` names.
    references: HashMap<String, String>,
}

impl<'schema> Converter<'schema> {
    /// The rule of the schema at a pointer such as `#/$defs/point`.
    fn reference(&mut self, pointer: &str, at: &str) -> Result<String> {
        if let Some(rule) = self.references.get(pointer) {
            return Ok(rule.clone());
        }
        let found = pointer.strip_prefix('#').and_then(|path| self.root.pointer(path));
        let schema = found.ok_or_else(|| refuse(&format!("`$ref` to {pointer}"), at))?;
        let rule = self.next_name();
        self.references.insert(pointer.to_owned(), rule.clone());
        let body = self.schema(schema, pointer)?;
        self.define(&rule, &body);
        Ok(rule)
    }

    fn next_name(&mut self) -> String {
        self.count += 1;
        format!("r{}", self.count)
    }

    fn define(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.rules, "{name} ::= {body}");
    }

    fn rule(&mut self, body: &str) -> String {
        let name = self.next_name();
        self.define(&name, body);
        name
    }

    /// What a value of this schema is, as the right side of a rule.
    fn schema(&mut self, schema: &'schema Value, at: &str) -> Result<String> {
        let schema = match schema {
            Value::Bool(true) => return Ok("value".to_owned()),
            Value::Object(schema) => schema,
            _ => return Err(refuse(&format!("`{schema}` as a schema"), at)),
        };
        let (body, known): (String, &[&str]) = if let Some(pointer) = schema.get("$ref") {
            let pointer = pointer.as_str().ok_or_else(|| refuse("`$ref` that is no string", at))?;
            (self.reference(pointer, at)?, &["$ref"])
        } else if let Some(value) = schema.get("const") {
            (one_of(schema, std::slice::from_ref(value), at)?, &["const", "type"])
        } else if let Some(values) = schema.get("enum") {
            (one_of(schema, list(values, "enum", at)?, at)?, &["enum", "type"])
        } else if let Some(key) =
            ["anyOf", "oneOf", "allOf"].into_iter().find(|&key| schema.contains_key(key))
        {
            (self.choice(schema, key, at)?, &["anyOf", "oneOf", "allOf"])
        } else {
            return self.types(schema, at);
        };
        only(schema, known, at)?;
        Ok(body)
    }

    fn choice(
        &mut self,
        schema: &'schema Map<String, Value>,
        key: &str,
        at: &str,
    ) -> Result<String> {
        let choices = list(&schema[key], key, at)?;
        if schema.keys().filter(|key| key.ends_with("Of")).count() > 1
            || (key == "allOf" && choices.len() > 1)
        {
            return Err(refuse(&format!("`{key}` with another"), at));
        }
        let mut rules = Vec::new();
        for (index, choice) in choices.iter().enumerate() {
            let body = self.schema(choice, &format!("{at}/{key}/{index}"))?;
            rules.push(self.rule(&body));
        }
        Ok(rules.join(" | "))
    }

    fn types(&mut self, schema: &'schema Map<String, Value>, at: &str) -> Result<String> {
        match schema.get("type") {
            Some(Value::Array(types)) if !types.is_empty() => {
                let mut rules = Vec::new();
                for kind in types {
                    let body = self.of_type(schema, kind.as_str().unwrap_or_default(), true, at)?;
                    rules.push(self.rule(&body));
                }
                Ok(rules.join(" | "))
            }
            Some(Value::String(kind)) => self.of_type(schema, kind, false, at),
            Some(other) => Err(refuse(&format!("`type` {other}"), at)),
            None if schema.contains_key("properties") => self.of_type(schema, "object", false, at),
            None => only(schema, &[], at).map(|()| "value".to_owned()),
        }
    }

    /// Keywords of another type are refused, unless the schema names several.
    fn of_type(
        &mut self,
        schema: &'schema Map<String, Value>,
        kind: &str,
        several: bool,
        at: &str,
    ) -> Result<String> {
        const OBJECT: [&str; 3] = ["properties", "required", "additionalProperties"];
        const ARRAY: [&str; 4] = ["items", "prefixItems", "minItems", "maxItems"];
        const STRING: [&str; 3] = ["minLength", "maxLength", "format"];
        const NUMBER: [&str; 2] = ["minimum", "exclusiveMinimum"];
        let all = [&OBJECT[..], &ARRAY, &STRING, &NUMBER].concat();
        let (own, body): (&[&str], _) = match kind {
            "object" => (&OBJECT, self.object(schema, at)?),
            "array" => (&ARRAY, self.array(schema, at)?),
            "string" => (&STRING, string(schema, at)?),
            "integer" | "number" => (&NUMBER, number(schema, kind, at)?.to_owned()),
            "boolean" | "null" => (&[], kind.to_owned()),
            _ => return Err(refuse(&format!("`type` {kind:?}"), at)),
        };
        let known = if several { &all } else { own };
        only(schema, &[known, &["type"]].concat(), at)?;
        Ok(body)
    }

    fn object(&mut self, schema: &'schema Map<String, Value>, at: &str) -> Result<String> {
        let none = Map::new();
        let properties = match schema.get("properties") {
            None => None,
            Some(Value::Object(properties)) => Some(properties),
            Some(_) => return Err(refuse("`properties` that is no object", at)),
        };
        let required: Vec<&str> = match schema.get("required") {
            None => Vec::new(),
            Some(names) => {
                list_or_none(names, "required", at)?.iter().filter_map(Value::as_str).collect()
            }
        };
        let (mut must, mut may) = (Vec::new(), Vec::new());
        for (key, value) in properties.into_iter().flatten() {
            let member = self.member(key, value, &format!("{at}/properties/{key}"))?;
            if required.contains(&key.as_str()) { must.push(member) } else { may.push(member) }
        }
        for name in required {
            if !properties.unwrap_or(&none).contains_key(name) {
                return Err(refuse(&format!("`required` of {name:?} without its property"), at));
            }
        }
        match schema.get("additionalProperties") {
            None | Some(Value::Bool(true)) if properties.is_none() => Ok("object".to_owned()),
            Some(value @ Value::Object(_)) if properties.is_none() => {
                let body = self.schema(value, &format!("{at}/additionalProperties"))?;
                let value = self.rule(&body);
                let member = self.rule(&format!("string \":\" ws {value}"));
                Ok(format!("\"{{\" ws ({member} (\",\" ws {member})* ws)? \"}}\""))
            }
            _ => Ok(self.members(&must, &may)),
        }
    }

    fn member(&mut self, key: &str, schema: &'schema Value, at: &str) -> Result<String> {
        let body = self.schema(schema, at)?;
        let value = self.rule(&body);
        let key = literal(&Value::String(key.to_owned()));
        Ok(self.rule(&format!("{key} \":\" ws {value}")))
    }

    /// An object of all of the first members, and any of the others after them.
    fn members(&mut self, must: &[String], may: &[String]) -> String {
        // The optional ones from some place on, where others stand before them.
        let mut tails = vec![String::new()];
        for member in may.iter().rev() {
            let after = tails.last().map_or("", String::as_str);
            let tail = self.rule(&format!("(\",\" ws {member})? {after}"));
            tails.push(tail);
        }
        tails.reverse();
        if !must.is_empty() {
            let must = must.join(" \",\" ws ");
            return format!("\"{{\" ws {must} {} ws \"}}\"", tails[0]);
        }
        let starts = may.iter().zip(&tails[1..]).map(|(member, tail)| format!("{member} {tail}"));
        match starts.collect::<Vec<_>>().join(" | ") {
            starts if starts.is_empty() => "\"{\" ws \"}\"".to_owned(),
            starts => format!("\"{{\" ws (({starts}) ws)? \"}}\""),
        }
    }

    fn array(&mut self, schema: &'schema Map<String, Value>, at: &str) -> Result<String> {
        let (min, max) = bounds(schema, "minItems", "maxItems", at)?;
        let mut first = Vec::new();
        if let Some(items) = schema.get("prefixItems") {
            for (index, item) in list(items, "prefixItems", at)?.iter().enumerate() {
                let body = self.schema(item, &format!("{at}/prefixItems/{index}"))?;
                first.push(self.rule(&body));
            }
            // The others are left out: the schema allows that, unless it asks for a number.
            if min > first.len() || max.is_some_and(|max| max < first.len()) {
                return Err(refuse(
                    "`minItems` or `maxItems` other than those of `prefixItems`",
                    at,
                ));
            }
            return Ok(format!("\"[\" ws {} ws \"]\"", first.join(" \",\" ws ")));
        }
        let item = match schema.get("items") {
            None => "value".to_owned(),
            Some(items) => {
                let body = self.schema(items, &format!("{at}/items"))?;
                self.rule(&body)
            }
        };
        let times = |less: usize| {
            let max = max.map_or(String::new(), |max| max.saturating_sub(less).to_string());
            format!("{{{},{max}}}", min.saturating_sub(less))
        };
        let some = format!("{item} (\",\" ws {item}){} ws", times(1));
        Ok(match (min, max) {
            (_, Some(0)) => "\"[\" ws \"]\"".to_owned(),
            (0, _) => format!("\"[\" ws ({some})? \"]\""),
            _ => format!("\"[\" ws {some} \"]\""),
        })
    }
}

/// One of these values, all of which must be of the schema's types.
fn one_of(schema: &Map<String, Value>, values: &[Value], at: &str) -> Result<String> {
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

fn string(schema: &Map<String, Value>, at: &str) -> Result<String> {
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

fn number(schema: &Map<String, Value>, kind: &str, at: &str) -> Result<&'static str> {
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

fn bounds(
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

/// Refuses what is neither known here nor an annotation.
fn only(schema: &Map<String, Value>, known: &[&str], at: &str) -> Result<()> {
    let other = schema
        .keys()
        .find(|key| !known.contains(&key.as_str()) && !ANNOTATIONS.contains(&key.as_str()));
    other.map_or(Ok(()), |key| Err(refuse(&format!("`{key}`"), at)))
}

fn list_or_none<'value>(value: &'value Value, key: &str, at: &str) -> Result<&'value [Value]> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| refuse(&format!("`{key}` that is no list"), at))
}

fn list<'value>(value: &'value Value, key: &str, at: &str) -> Result<&'value [Value]> {
    match list_or_none(value, key, at)? {
        [] => Err(refuse(&format!("`{key}` of nothing"), at)),
        values => Ok(values),
    }
}

/// This value as JSON, as a literal of the grammar.
fn literal(value: &Value) -> String {
    format!("\"{}\"", value.to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gbnf::check_grammar;

    #[test]
    fn each_understood_keyword_makes_a_valid_grammar() {
        for schema in [
            "true",
            "{}",
            r#"{"type": "object"}"#,
            r#"{"type": "object", "properties": {}, "additionalProperties": false}"#,
            r#"{"type": "object", "additionalProperties": {"type": "integer"}}"#,
            r#"{"properties": {"a \"b\" \\": {"const": "x\n]"}, "c": {}, "d": true}, "required": ["c"]}"#,
            r#"{"properties": {"a": {"type": "null"}, "b": {"type": "boolean"}}}"#,
            r#"{"type": ["string", "null"], "maxLength": 5, "title": "t", "default": null}"#,
            r#"{"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2}"#,
            r#"{"type": "array", "maxItems": 0}"#,
            r#"{"type": "array", "prefixItems": [{"enum": [1, "b", null]}, {"type": "integer"}], "minItems": 2}"#,
            r#"{"type": "string", "format": "date-time"}"#,
            r##"{"$defs": {"tree": {"properties": {"l": {"$ref": "#/$defs/tree"}}}}, "$ref": "#/$defs/tree"}"##,
            r#"{"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"allOf": [{"type": "string"}]}]}"#,
        ] {
            let grammar =
                json_schema_grammar(schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
            assert_eq!(check_grammar(&grammar), Ok(()), "{schema}\n{grammar}");
        }
    }

    #[test]
    fn what_cannot_be_promised_is_refused_by_name() {
        for (schema, reason) in [
            (r#"{"type": "string", "pattern": "a+"}"#, "`pattern` at #"),
            (r#"{"type": "integer", "minimum": 3}"#, "`minimum` 3 (other than 0) at #"),
            (r#"{"type": "number", "exclusiveMinimum": 0}"#, "`exclusiveMinimum` of a number at #"),
            (
                r#"{"properties": {"a": {"items": {"uniqueItems": true}, "type": "array"}}}"#,
                "`uniqueItems` at #/properties/a/items",
            ),
            (r#"{"type": "string", "minItems": 3}"#, "`minItems` at #"),
            (
                r#"{"type": "object", "required": ["a"]}"#,
                "`required` of \"a\" without its property at #",
            ),
            (r#"{"type": "text"}"#, "`type` \"text\" at #"),
            (r##"{"$ref": "#/$defs/none"}"##, "`$ref` to #/$defs/none at #"),
            (r#"{"$ref": "https://x/y"}"#, "`$ref` to https://x/y at #"),
            (r#"{"enum": []}"#, "`enum` of nothing at #"),
            (r#"{"enum": [1], "type": "string"}"#, "the value 1 of another `type` at #"),
            (r#"{"not": {}}"#, "`not` at #"),
            (r#"{"anyOf": [{}], "oneOf": [{}]}"#, "`anyOf` with another at #"),
            (r#"{"allOf": [{}, {}]}"#, "`allOf` with another at #"),
            (
                r#"{"type": "string", "maxLength": 2001}"#,
                "`maxLength` 2001 (it may be 0 to 2000) at #",
            ),
            (r#"{"type": "string", "minLength": 3, "maxLength": 2}"#, "a length from 3 to 2 at #"),
            (r#"{"type": "string", "format": "email"}"#, "`format` \"email\" at #"),
            ("false", "`false` as a schema at #"),
        ] {
            let error = json_schema_grammar(schema).unwrap_err().to_string();
            assert_eq!(error, format!("{reason} of the JSON schema is not supported"), "{schema}");
        }
    }

    #[test]
    fn a_schema_that_is_itself_has_no_grammar() {
        let grammar = json_schema_grammar(r##"{"$ref": "#"}"##).unwrap();
        assert!(check_grammar(&grammar).unwrap_err().to_string().ends_with("(left recursion)"));
        let error = json_schema_grammar("{").unwrap_err().to_string();
        assert!(error.starts_with("the JSON schema is no JSON: EOF"), "{error}");
        let error = json_schema_grammar(&" ".repeat(70_000)).unwrap_err().to_string();
        assert_eq!(error, "the JSON schema has 70000 bytes; it must have at most 65536");
    }
}
