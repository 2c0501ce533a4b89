//! The JSON Schema of a plan file, made from the very types that read it; the keys that it names are
//! the keys that are known.

use super::file::{Body, Head, SECTIONS, STEPS};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// What may stand at a place of a plan file.
pub(super) enum Known {
    /// A table with these keys.
    Keys(Vec<String>),
    /// A table with any keys.
    Anything,
    /// No table.
    Nothing,
}

static SCHEMA: LazyLock<Value> = LazyLock::new(build);

/// The JSON Schema (draft 2020-12) of a plan file, for editors.
pub fn plan_schema() -> Value {
    SCHEMA.clone()
}

fn build() -> Value {
    let generate = |settings: SchemaSettings| settings.with(|s| s.inline_subschemas = true).into_generator();
    let head = generate(SchemaSettings::draft2020_12()).into_root_schema_for::<Head>();
    let body = generate(SchemaSettings::draft2020_12()).into_root_schema_for::<Body>();
    let mut properties = Map::new();
    for part in [head.as_value(), body.as_value()] {
        if let Some(Value::Object(own)) = part.get("properties") {
            properties.extend(own.clone());
        }
    }
    properties.insert(
        "sweep".into(),
        json!({
            "description": "Lists of values by dotted key, as in \"clients.addresses\" = [1, 2, 4]: every combination is a case.",
            "type": "object", "additionalProperties": { "type": ["array", "object"] }
        }),
    );
    properties.insert(
        "case".into(),
        json!({
            "description": "The cases themselves: values by dotted key, and optionally a name.",
            "type": "array", "items": { "type": "object" }
        }),
    );
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tuplelab plan",
        "type": "object",
        "properties": properties,
    });
    close(&mut schema);
    schema
}

/// Says of every table with named keys that it has no others.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".into(), Value::Bool(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// What may stand below a dotted path; the empty path is the file itself.
pub(super) fn known_at(path: &str) -> Known {
    let mut at: &Value = &SCHEMA;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let Some(next) = at.get("properties").and_then(|p| p.get(part)) else {
            return if at.get("additionalProperties").is_some_and(Value::is_object) {
                Known::Anything
            } else {
                Known::Nothing
            };
        };
        at = next.get("items").unwrap_or(next);
    }
    match at.get("properties") {
        Some(Value::Object(keys)) if path != "clients.sysctls" && path != "servers.sysctls" => {
            Known::Keys(keys.keys().cloned().collect())
        }
        Some(_) => Known::Anything,
        None if at.get("additionalProperties").is_some_and(Value::is_object) => Known::Anything,
        None => Known::Nothing,
    }
}

/// Every key that a case may set.
pub(super) fn case_keys() -> Vec<String> {
    SECTIONS
        .into_iter()
        .flat_map(|section| match known_at(section) {
            Known::Keys(keys) => keys.into_iter().map(|key| format!("{section}.{key}")).collect(),
            Known::Anything | Known::Nothing => Vec::new(),
        })
        .chain([STEPS.to_owned()])
        .collect()
}
