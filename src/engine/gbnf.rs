//! Whether a grammar in llama.cpp's notation (GBNF) is one that llama.cpp can follow.
//!
//! llama.cpp has the last word, but it says no more than "no", and not always that: some grammars
//! keep it busy until the memory ends (`"a"{3,2}`, a left recursion through a rule that may be
//! empty), or exhaust its stack. Those are refused here, with the line where it went wrong.
//! Must not know: models, tokens.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// The most bytes in a JSON schema, and in a grammar four times as many, since it may be made of
/// one.
pub const MAX_SCHEMA_BYTES: usize = 65_536;
/// The most bytes in a grammar.
pub const MAX_GRAMMAR_BYTES: usize = 4 * MAX_SCHEMA_BYTES;
/// The deepest nesting of parentheses.
const MAX_NESTING: usize = 64;
/// The most times an item may be repeated, beside "without end"; llama.cpp's own limit.
pub(super) const MAX_REPEAT: usize = 2000;
/// The most characters, classes and references, with repeated ones counted as often.
const MAX_ITEMS: usize = 100_000;

/// Checks a grammar whose start is the rule `root`.
///
/// ```
/// use ryot_metrics::engine::check_grammar;
/// assert!(check_grammar("root ::= \"yes\" | \"no\"").is_ok());
/// let error = check_grammar("root ::= answer\n").unwrap_err();
/// assert_eq!(error.to_string(), "the grammar has no rule `answer`");
/// ```
///
/// # Errors
///
/// [`Error::InvalidArgument`] with the reason.
pub fn check_grammar(text: &str) -> Result<()> {
    if text.len() > MAX_GRAMMAR_BYTES {
        let length = text.len();
        return Err(refusal(format!(
            "the grammar has {length} bytes; it must have at most {MAX_GRAMMAR_BYTES}"
        )));
    }
    let mut parser = Parser { rest: text, text, ..Parser::default() };
    parser.grammar()?;
    let root = parser.names.get("root").copied().filter(|&root| parser.rules[root].is_some());
    root.ok_or_else(|| refusal("the grammar has no rule `root`"))?;
    check_rules(&parser)
}

fn refusal(text: impl Into<String>) -> Error {
    Error::InvalidArgument(text.into())
}

/// A character or class, or a rule, and how often it may stand there.
#[derive(Clone, Copy, Debug)]
struct Item {
    rule: Option<usize>,
    /// How many elements of llama.cpp's it becomes, once.
    size: usize,
    min: usize,
    /// More than once.
    repeats: bool,
}

/// A rule's alternatives.
type Rule = Vec<Vec<Item>>;

#[derive(Default)]
struct Parser<'text> {
    text: &'text str,
    rest: &'text str,
    names: HashMap<&'text str, usize>,
    /// None while a rule is only referred to. Parentheses are rules without a name.
    rules: Vec<Option<Rule>>,
    items: usize,
    nesting: usize,
}

impl<'text> Parser<'text> {
    fn grammar(&mut self) -> Result<()> {
        self.space(true);
        while !self.rest.is_empty() {
            let name = self.name().ok_or_else(|| self.expected("the name of a rule"))?;
            self.space(false);
            self.expect("::=")?;
            self.space(true);
            let rule = self.alternatives(false)?;
            let index = self.index_of(name);
            self.rules[index] = Some(rule);
            if !self.rest.is_empty() && !self.rest.starts_with(['\r', '\n']) {
                return Err(self.expected("an item, `|` or the end of the line"));
            }
            self.space(true);
        }
        Ok(())
    }

    fn alternatives(&mut self, nested: bool) -> Result<Rule> {
        let mut rule = vec![self.sequence(nested)?];
        while self.take("|") {
            self.space(true);
            rule.push(self.sequence(nested)?);
        }
        Ok(rule)
    }

    fn sequence(&mut self, nested: bool) -> Result<Vec<Item>> {
        let mut sequence = Vec::new();
        while let Some(mut item) = self.item()? {
            self.space(nested);
            self.repetition(&mut item, nested)?;
            sequence.push(item);
        }
        Ok(sequence)
    }

    fn item(&mut self) -> Result<Option<Item>> {
        let item = |rule, size| Some(Item { rule, size, min: 1, repeats: false });
        if self.take("\"") {
            return Ok(item(None, self.characters('"')?));
        }
        if self.take("[") {
            self.take("^");
            let size = self.characters(']')?;
            return if size > 0 { Ok(item(None, size)) } else { Err(self.expected("a character")) };
        }
        if self.take(".") {
            return Ok(item(None, 1));
        }
        if self.take("(") {
            return Ok(item(Some(self.group()?), 1));
        }
        if self.rest.starts_with(['<', '!']) {
            return Err(self.error("names of tokens (`<…>`) are not supported"));
        }
        Ok(self.name().and_then(|name| item(Some(self.index_of(name)), 1)))
    }

    fn group(&mut self) -> Result<usize> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.error(&format!("parentheses are nested deeper than {MAX_NESTING}")));
        }
        self.space(true);
        let rule = self.alternatives(true)?;
        self.expect(")")?;
        self.nesting -= 1;
        self.rules.push(Some(rule));
        Ok(self.rules.len() - 1)
    }

    fn repetition(&mut self, item: &mut Item, nested: bool) -> Result<()> {
        let (min, max) = if self.take("*") {
            (0, None)
        } else if self.take("+") {
            (1, None)
        } else if self.take("?") {
            (0, Some(1))
        } else if self.take("{") {
            self.bounds()?
        } else {
            (1, Some(1))
        };
        if max.is_some_and(|max| max < min) {
            return Err(self.error("a repetition's end is less than its start"));
        }
        self.items += item.size * max.unwrap_or(min).max(1);
        if self.items > MAX_ITEMS {
            return Err(self.error(&format!("the grammar has more than {MAX_ITEMS} items")));
        }
        (item.min, item.repeats) = (min, max != Some(1) && max != Some(0));
        self.space(nested);
        if self.rest.starts_with(['*', '+', '?', '{']) {
            return Err(self.error("a repetition is repeated; use parentheses"));
        }
        Ok(())
    }

    fn bounds(&mut self) -> Result<(usize, Option<usize>)> {
        self.space(true);
        let min = self.number()?.ok_or_else(|| self.expected("a number"))?;
        self.space(true);
        let max = if self.take(",") {
            self.space(true);
            self.number()?
        } else {
            Some(min)
        };
        self.space(true);
        self.expect("}")?;
        Ok((min, max))
    }

    fn number(&mut self) -> Result<Option<usize>> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(number) if number <= MAX_REPEAT => Ok(Some(number)),
            _ => Err(self.error(&format!("a repetition is {digits}; it may be {MAX_REPEAT}"))),
        }
    }

    /// Reads up to the closing quote or bracket, and counts.
    fn characters(&mut self, close: char) -> Result<usize> {
        for count in 0.. {
            let mut characters = self.rest.chars();
            let character = characters.next().ok_or_else(|| self.expected(&close.to_string()))?;
            self.rest = characters.as_str();
            if character == close {
                return Ok(count);
            }
            if character == '\\' {
                self.escape()?;
            }
        }
        unreachable!("a text has an end")
    }

    fn escape(&mut self) -> Result<()> {
        let Some(kind) = self.rest.chars().next() else { return Err(self.expected("an escape")) };
        let digits = match kind {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            't' | 'r' | 'n' | '\\' | '"' | '[' | ']' | '-' => 0,
            _ => return Err(self.error(&format!("unknown escape `\\{kind}`"))),
        };
        let hex =
            self.rest.get(1..=digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if hex.is_none() {
            return Err(self.expected(&format!("{digits} hexadecimal digits")));
        }
        self.rest = &self.rest[1 + digits..];
        Ok(())
    }

    fn name(&mut self) -> Option<&'text str> {
        let in_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let end = self.rest.find(|c| !in_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    fn index_of(&mut self, name: &'text str) -> usize {
        *self.names.entry(name).or_insert_with(|| {
            self.rules.push(None);
            self.rules.len() - 1
        })
    }

    /// Skips blanks and comments, and, if they do not end a rule here, ends of lines.
    fn space(&mut self, lines: bool) {
        loop {
            let blank = |c: char| c == ' ' || c == '\t' || (lines && (c == '\r' || c == '\n'));
            self.rest = self.rest.trim_start_matches(blank);
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = &self.rest[self.rest.find(['\r', '\n']).unwrap_or(self.rest.len())..];
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(self.expected(&format!("`{token}`"))) }
    }

    fn expected(&self, what: &str) -> Error {
        let found: String = self.rest.chars().take(10).collect();
        self.error(&format!("expected {what}, found {found:?}"))
    }

    fn error(&self, text: &str) -> Error {
        let line = 1 + self.text[..self.text.len() - self.rest.len()].matches('\n').count();
        refusal(format!("line {line} of the grammar: {text}"))
    }
}

/// All rules exist, no rule begins with itself, and nothing that may be empty is repeated.
fn check_rules(parser: &Parser<'_>) -> Result<()> {
    let name = |index: usize| {
        let found = parser.names.iter().find(|(_, other)| **other == index);
        found.map_or("a rule in parentheses".to_owned(), |(name, _)| format!("`{name}`"))
    };
    if let Some(missing) = parser.rules.iter().position(Option::is_none) {
        return Err(refusal(format!("the grammar has no rule {}", name(missing))));
    }
    let rules: Vec<&Rule> = parser.rules.iter().flatten().collect();
    let empty = may_be_empty(&rules);
    let repeated = rules.iter().enumerate().find(|(_, rule)| {
        rule.iter().flatten().any(|item| item.repeats && is_empty(item, 1, &empty))
    });
    if let Some((index, _)) = repeated {
        let name = name(index);
        return Err(refusal(format!("{name} of the grammar repeats what may be empty")));
    }
    match left_recursion(&rules, &empty) {
        Some(index) => {
            let name = name(index);
            Err(refusal(format!("{name} of the grammar begins with itself (left recursion)")))
        }
        None => Ok(()),
    }
}

/// Whether an item that stands there at least so often can be nothing.
fn is_empty(item: &Item, min: usize, empty: &[bool]) -> bool {
    min == 0 || item.size == 0 || item.rule.is_some_and(|rule| empty[rule])
}

fn may_be_empty(rules: &[&Rule]) -> Vec<bool> {
    let mut empty = vec![false; rules.len()];
    loop {
        let mut changed = false;
        for (index, rule) in rules.iter().enumerate() {
            let nothing =
                |sequence: &Vec<Item>| sequence.iter().all(|item| is_empty(item, item.min, &empty));
            if !empty[index] && rule.iter().any(nothing) {
                empty[index] = true;
                changed = true;
            }
        }
        if !changed {
            return empty;
        }
    }
}

/// A rule that can begin with itself: one that is left when all are taken away, again and again,
/// that begin with none of those left.
fn left_recursion(rules: &[&Rule], empty: &[bool]) -> Option<usize> {
    let mut beginners: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut begins_with = vec![0; rules.len()];
    for (index, rule) in rules.iter().enumerate() {
        for sequence in *rule {
            for item in sequence {
                if let Some(first) = item.rule {
                    beginners[first].push(index);
                    begins_with[index] += 1;
                }
                if !is_empty(item, item.min, empty) {
                    break;
                }
            }
        }
    }
    let mut free: Vec<usize> = (0..rules.len()).filter(|&rule| begins_with[rule] == 0).collect();
    while let Some(rule) = free.pop() {
        for &beginner in &beginners[rule] {
            begins_with[beginner] -= 1;
            if begins_with[beginner] == 0 {
                free.push(beginner);
            }
        }
    }
    begins_with.iter().position(|&count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        check_grammar(text).map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn what_llama_cpp_follows_is_accepted() {
        for text in [
            "root ::= \"a\"",
            "# comment\nroot ::= item+ # more\nitem ::= [a-z0-9]{2,5} |\n  \"\\n\" | .\n",
            "root ::= ( \"a\"\n | b )* \"\\u00e9\\x41\\U0001F600\"\nb ::= [^\\]\"\\\\-] \"x\"{3} \"y\"{0,}",
            "root ::= \"(\" root \")\" | \"x\"",
            "root ::= | \"a\"",
            "root ::= a? b\r\na ::= \"a\"\r\nb ::= \"\" \"b\"",
        ] {
            assert_eq!(refusal(text), "accepted", "{text}");
        }
    }

    #[test]
    fn a_refusal_says_where_and_why() {
        let deep = format!("root ::= {}", "(".repeat(200_000));
        let long = format!("root ::= \"{}\"{{2000}}", "a".repeat(60));
        for (text, reason) in [
            ("", "the grammar has no rule `root`"),
            ("x ::= \"a\"", "the grammar has no rule `root`"),
            ("root ::= a\n", "the grammar has no rule `a`"),
            ("root ::= \"a\n", "line 2 of the grammar: expected \", found \"\""),
            ("\nroot = a", "line 2 of the grammar: expected `::=`, found \"= a\""),
            ("root ::= \"\\q\"", "line 1 of the grammar: unknown escape `\\q`"),
            (
                "root ::= \"\\xg0\"",
                "line 1 of the grammar: expected 2 hexadecimal digits, found \"xg0\\\"\"",
            ),
            (
                "root ::= [] \"a\"",
                "line 1 of the grammar: expected a character, found \" \\\"a\\\"\"",
            ),
            ("root ::= (\"a\"", "line 1 of the grammar: expected `)`, found \"\""),
            (
                "root ::= \"a\" ]",
                "line 1 of the grammar: expected an item, `|` or the end of the line, found \"]\"",
            ),
            (
                "root ::= \"a\"{3,2}",
                "line 1 of the grammar: a repetition's end is less than its start",
            ),
            ("root ::= \"a\"{2001}", "line 1 of the grammar: a repetition is 2001; it may be 2000"),
            (
                "root ::= \"a\"+*",
                "line 1 of the grammar: a repetition is repeated; use parentheses",
            ),
            (
                "root ::= <|im_end|>",
                "line 1 of the grammar: names of tokens (`<…>`) are not supported",
            ),
            (
                "root ::= root \"a\" | \"b\"",
                "`root` of the grammar begins with itself (left recursion)",
            ),
            (
                "root ::= a root \"c\" | \"d\"\na ::= b\nb ::= \"x\" |",
                "`root` of the grammar begins with itself (left recursion)",
            ),
            ("root ::= (\"a\"?)*", "`root` of the grammar repeats what may be empty"),
            ("root ::= \"\"+", "`root` of the grammar repeats what may be empty"),
            (&" ".repeat(300_000), "the grammar has 300000 bytes; it must have at most 262144"),
            (&deep, "line 1 of the grammar: parentheses are nested deeper than 64"),
            (&long, "line 1 of the grammar: the grammar has more than 100000 items"),
        ] {
            assert_eq!(refusal(text), reason);
        }
    }
}
