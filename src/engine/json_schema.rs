//! From a JSON schema to a grammar (GBNF) whose every text is JSON that the schema accepts.
//!
//! The other way round is not promised: where a schema leaves open what else may be there
//! (additional properties beside named ones, blanks, the order of properties), the grammar takes
//! one way. A keyword whose effect the grammar could not promise is refused by name.
//! Must not know: models, tokens.

#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use self::values::{bounds, literal, number, one_of, string};
use crate::engine::gbnf::MAX_SCHEMA_BYTES;
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
