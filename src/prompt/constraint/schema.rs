//! What a schema must be before it is compiled: small enough, and said where it is not.
//!
//! The compiler bounds its own work, and says what it does not know, but not where that stands in
//! the schema.

use serde_json::{Map, Value};

use super::grammar::{GrammarError, clipped};

/// Deepest nesting of a schema.
const DEPTH_MAX: usize = 64;
/// Most values in a schema, of any kind: what the compiler's recursion takes of its stack is
/// bounded by them.
const VALUES_MAX: usize = 20_000;
/// Largest bound on a count: of items, properties or characters. The compiler unrolls some of them.
const COUNT_MAX: u64 = 100_000;
/// Largest number that every JSON reader keeps.
const NUMBER_MAX: f64 = 9_007_199_254_740_992.0;
/// Most patterns of names: 100 take 0.3 s, 200 take 3 s.
const PATTERNS_MAX: usize = 16;
/// Longest pattern, in bytes.
pub(super) const PATTERN_MAX_BYTES: usize = 16 << 10;

/// Keywords that restrict what is valid and that a grammar does not express.
const UNSUPPORTED: [&str; 15] = [
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
];

/// Keywords whose values are schemas by name.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords whose values are lists of schemas.
const LISTS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose values are a schema. `items` may be a list too.
const SINGLE: [&str; 3] = ["items", "additionalProperties", "additionalItems"];
/// Keywords whose values are counts.
const COUNTS: [&str; 6] = ["minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength"];

/// Checks a schema, whose every part is a subschema or a value.
///
/// # Errors
/// [`GrammarError`] with the path of what is wrong, within the schema.
pub(super) fn check(schema: &Value) -> Result<(), GrammarError> {
    let mut walk = Walk { root: schema, path: Vec::new(), values_count: 0 };
    walk.measure(schema, 0)?;
    walk.schema(schema)
}

/// Whether a regular expression names a character below the blank by its code or as it is.
fn names_control(pattern: &str) -> bool {
    let codes = ["\\x0", "\\x1", "\\u000", "\\u001", "\\u{0", "\\u{1", "\\c", "\\0"];
    pattern.chars().any(|letter| letter < ' ') || codes.iter().any(|code| pattern.contains(code))
}

struct Walk<'a> {
    root: &'a Value,
    path: Vec<String>,
    values_count: usize,
}

impl<'a> Walk<'a> {
    fn refuse<T>(&self, message: String) -> Result<T, GrammarError> {
        let mut path = String::new();
        for step in &self.path {
            if !step.starts_with('[') && !path.is_empty() {
                path.push('.');
            }
            path.push_str(step);
        }
        Err(GrammarError { path: clipped(&path), message })
    }

    fn within<T>(&mut self, step: &str, work: impl FnOnce(&mut Self) -> Result<T, GrammarError>) -> Result<T, GrammarError> {
        self.path.push(step.to_owned());
        let done = work(self)?;
        self.path.pop();
        Ok(done)
    }

    /// As [`Walk::refuse`], of the value of the keyword `name`.
    fn refuse_at<T>(&mut self, name: &str, message: String) -> Result<T, GrammarError> {
        self.within(name, |walk| walk.refuse(message))
    }

    /// Bounds its size. What follows recurses no deeper than this.
    fn measure(&mut self, value: &Value, depth: usize) -> Result<(), GrammarError> {
        self.values_count += 1;
        if depth > DEPTH_MAX {
            return self.refuse(format!("is nested deeper than {DEPTH_MAX} levels"));
        }
        if self.values_count > VALUES_MAX {
            self.path.clear();
            return self.refuse(format!("holds more than {VALUES_MAX} values"));
        }
        match value {
            Value::Array(list) => list
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| self.within(&format!("[{index}]"), |walk| walk.measure(item, depth + 1))),
            Value::Object(map) => {
                map.iter().try_for_each(|(key, value)| self.within(key, |walk| walk.measure(value, depth + 1)))
            }
            _ => Ok(()),
        }
    }

    fn schema(&mut self, schema: &'a Value) -> Result<(), GrammarError> {
        let map = match schema {
            Value::Object(map) => map,
            Value::Bool(_) => return Ok(()),
            _ => return self.refuse("is no schema; expected an object, true or false".to_owned()),
        };
        let mut unsupported = UNSUPPORTED.into_iter().filter(|name| map.contains_key(*name));
        let unique = map.get("uniqueItems").filter(|value| **value != Value::Bool(false)).map(|_| "uniqueItems");
        if let Some(name) = unsupported.next().or(unique) {
            return self.refuse_at(name, "cannot be kept while an answer is generated; leave it out".to_owned());
        }
        if !self.path.is_empty() && map.contains_key("$id") {
            let message = "changes what references mean, which is not followed; leave it out".to_owned();
            return self.refuse_at("$id", message);
        }
        self.types(map)?;
        self.counts(map)?;
        self.numbers(map)?;
        self.patterns(map)?;
        self.texts(map)?;
        if let Some(reference) = map.get("$ref") {
            self.within("$ref", |walk| walk.reference(reference))?;
        }
        for (name, value) in map {
            let name = name.as_str();
            if NAMED.contains(&name) {
                self.within(name, |walk| walk.named(value))?;
            } else if LISTS.contains(&name) || name == "items" && value.is_array() {
                self.within(name, |walk| walk.list(value))?;
            } else if SINGLE.contains(&name) {
                self.within(name, |walk| walk.schema(value))?;
            }
        }
        Ok(())
    }

    fn named(&mut self, value: &'a Value) -> Result<(), GrammarError> {
        match value {
            Value::Object(map) => map.iter().try_for_each(|(name, schema)| self.within(name, |walk| walk.schema(schema))),
            _ => self.refuse("is no object of schemas".to_owned()),
        }
    }

    fn list(&mut self, value: &'a Value) -> Result<(), GrammarError> {
        match value {
            Value::Array(list) => list
                .iter()
                .enumerate()
                .try_for_each(|(index, schema)| self.within(&format!("[{index}]"), |walk| walk.schema(schema))),
            _ => self.refuse("is no array of schemas".to_owned()),
        }
    }

    fn types(&mut self, map: &Map<String, Value>) -> Result<(), GrammarError> {
        let is_type = |value: &Value| {
            let names = ["null", "boolean", "object", "array", "number", "string", "integer"];
            value.as_str().is_some_and(|name| names.contains(&name))
        };
        let fits = match map.get("type") {
            None => true,
            Some(Value::Array(list)) => !list.is_empty() && list.iter().all(is_type),
            Some(value) => is_type(value),
        };
        if fits {
            return Ok(());
        }
        let expected = "is no type; expected null, boolean, object, array, number, string, integer, or an array of them";
        self.refuse_at("type", expected.to_owned())
    }

    fn counts(&mut self, map: &Map<String, Value>) -> Result<(), GrammarError> {
        for name in COUNTS {
            let Some(value) = map.get(name) else { continue };
            let whole = value.as_u64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64));
            if whole.is_none_or(|count| count > COUNT_MAX) {
                let message = format!("is {}; expected a whole number from 0 to {COUNT_MAX}", clipped(&value.to_string()));
                return self.refuse_at(name, message);
            }
        }
        let count = |name: &str| map.get(name).and_then(Value::as_f64);
        for kind in ["Items", "Properties", "Length"] {
            if let (Some(least), Some(most)) = (count(&format!("min{kind}")), count(&format!("max{kind}")))
                && least > most
            {
                let message = format!("is {least}, which is more than max{kind}, {most}");
                return self.refuse_at(&format!("min{kind}"), message);
            }
        }
        // The compiler counts a name that comes twice as two properties.
        let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        if count("minProperties").is_some_and(|least| least > required as f64) {
            let message = format!("is more than the {required} names in `required`, which cannot be kept");
            return self.refuse_at("minProperties", message);
        }
        Ok(())
    }

    /// Numbers beyond 2^53 are not kept by JSON, and overflow in the compiler.
    fn numbers(&mut self, map: &Map<String, Value>) -> Result<(), GrammarError> {
        let is_large = |value: &Value| value.as_f64().is_some_and(|number| number.abs() > NUMBER_MAX);
        for name in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "const"] {
            if map.get(name).is_some_and(is_large) {
                return self.refuse_at(name, "is beyond 2^53".to_owned());
            }
        }
        if map.get("enum").and_then(Value::as_array).is_some_and(|list| list.iter().any(is_large)) {
            return self.refuse_at("enum", "has a number beyond 2^53".to_owned());
        }
        Ok(())
    }

    /// Several patterns of one text, and many of names, are crossed with each other, at a cost
    /// without a bound.
    fn patterns(&mut self, map: &Map<String, Value>) -> Result<(), GrammarError> {
        if map.get("patternProperties").and_then(Value::as_object).is_some_and(|named| named.len() > PATTERNS_MAX) {
            let message = format!("has more than {PATTERNS_MAX} patterns");
            return self.refuse_at("patternProperties", message);
        }
        let has_pattern = |value: &Value| value.get("pattern").is_some() || value.get("format").is_some();
        let all = map.get("allOf").and_then(Value::as_array).into_iter().flatten();
        if all.filter(|part| has_pattern(part)).count() + usize::from(map.contains_key("pattern")) > 1 {
            return self.refuse_at("allOf", "has more than one pattern for a text".to_owned());
        }
        Ok(())
    }

    fn texts(&mut self, map: &Map<String, Value>) -> Result<(), GrammarError> {
        match map.get("pattern") {
            Some(Value::String(pattern)) if pattern.len() > PATTERN_MAX_BYTES => {
                let message = format!("is {} bytes long; expected {PATTERN_MAX_BYTES} at most", pattern.len());
                self.refuse_at("pattern", message)?;
            }
            // The characters of a JSON string that it must escape are not those of its text.
            Some(Value::String(pattern)) if names_control(pattern) => {
                let message = "names a control character, which cannot be kept".to_owned();
                self.refuse_at("pattern", message)?;
            }
            None | Some(Value::String(_)) => {}
            Some(_) => self.refuse_at("pattern", "is no string".to_owned())?,
        }
        let is_list_of_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
        if map.get("required").is_some_and(|value| !is_list_of_texts(value)) {
            self.refuse_at("required", "is no array of strings".to_owned())?;
        }
        if map.get("enum").is_some_and(|value| value.as_array().is_none_or(Vec::is_empty)) {
            self.refuse_at("enum", "is no array of values, or has none".to_owned())?;
        }
        Ok(())
    }

    /// A reference must lead to a schema: through others, but not around in a circle.
    fn reference(&mut self, reference: &Value) -> Result<(), GrammarError> {
        let mut seen = Vec::new();
        let mut at = reference;
        loop {
            let Some(text) = at.as_str() else { return self.refuse("is no string".to_owned()) };
            let Some(pointer) = text.strip_prefix('#') else {
                return self.refuse(format!("{:?} lies outside of the schema; expected one that begins with #", clipped(text)));
            };
            if seen.contains(&pointer) {
                return self.refuse(format!("{:?} leads to itself and to no schema", clipped(text)));
            }
            seen.push(pointer);
            let Some(target) = self.root.pointer(pointer) else {
                return self.refuse(format!("{:?} is not in the schema", clipped(text)));
            };
            match target {
                Value::Object(map) if map.len() == 1 && map.contains_key("$ref") => at = &map["$ref"],
                _ => return Ok(()),
            }
        }
    }
}
