//! Which schemas have a grammar, and how others are refused.

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
        (r#"{"type": "string", "maxLength": 2001}"#, "`maxLength` 2001 (it may be 0 to 2000) at #"),
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
