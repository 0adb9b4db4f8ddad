//! Holds facts against docs/facts.schema.json. It knows the keywords of JSON Schema (draft 2020-12)
//! that this schema uses, and refuses others, so that the schema cannot say what is not checked.

use serde_json::Value;

/// Keywords that only describe. `format` is one: nothing is checked by it.
const DESCRIBING: [&str; 6] = ["$schema", "$defs", "title", "description", "format", "$id"];

/// The schema of facts.
pub struct Schema(Value);

impl Schema {
    /// That of docs/facts.schema.json.
    pub fn of_facts() -> Schema {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/facts.schema.json");
        Schema(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    /// What is wrong with `value`, each with its place. Nothing, if it is valid.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        self.check(&self.0, value, "", &mut problems);
        problems
    }

    /// Facts as they were received: one line of JSON.
    ///
    /// # Panics
    /// They are no JSON, or not valid.
    pub fn facts(&self, line: &str) -> Value {
        let line = line.strip_suffix('\n').unwrap_or(line);
        assert!(!line.contains('\n'), "more than one line: {line}");
        let facts: Value = serde_json::from_str(line).expect(line);
        let problems = self.problems(&facts);
        assert!(problems.is_empty(), "{problems:#?}: {facts:#}");
        facts
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
        let schema = schema.as_object().expect("a schema is an object");
        for (keyword, rule) in schema {
            let problem = match keyword.as_str() {
                name if DESCRIBING.contains(&name) => None,
                "$ref" => {
                    let pointer = rule.as_str().unwrap().strip_prefix('#').expect("a local $ref");
                    let definition = self.0.pointer(pointer).expect(pointer);
                    self.check(definition, value, at, problems);
                    None
                }
                "oneOf" => self.one_of(rule.as_array().unwrap(), value, at, problems),
                "type" => (!has_type(value, rule)).then(|| format!("is no {rule}")),
                "const" => (value != rule).then(|| format!("is not {rule}")),
                "enum" => (!rule.as_array().unwrap().contains(value))
                    .then(|| format!("is none of {rule}")),
                "minimum" => (value.as_f64() < rule.as_f64()).then(|| format!("is below {rule}")),
                "maximum" => (value.as_f64() > rule.as_f64()).then(|| format!("is above {rule}")),
                "minLength" => (length(value) < size(rule)).then(|| format!("is below {rule}")),
                "maxLength" => (length(value) > size(rule)).then(|| format!("is above {rule}")),
                "minItems" => (items(value) < size(rule)).then(|| format!("has fewer than {rule}")),
                "maxItems" => (items(value) > size(rule)).then(|| format!("has more than {rule}")),
                "required" => {
                    let names = rule.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                    let missing: Vec<&str> =
                        names.filter(|name| value.get(name).is_none()).collect();
                    (!missing.is_empty()).then(|| format!("lacks {}", missing.join(", ")))
                }
                "properties" => {
                    let mut unknown = None;
                    for (name, value) in value.as_object().into_iter().flatten() {
                        match rule.get(name) {
                            Some(schema) => {
                                self.check(schema, value, &format!("{at}/{name}"), problems);
                            }
                            // The schema is open for later keys. This server has none of those.
                            None => {
                                unknown = Some(format!("has {name}, which is not in the schema"));
                            }
                        }
                    }
                    unknown
                }
                "items" => {
                    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, value, &format!("{at}/{index}"), problems);
                    }
                    None
                }
                unknown => panic!("the keyword {unknown} is not checked"),
            };
            problems.extend(problem.map(|problem| format!("{at}: {value} {problem}")));
        }
    }

    /// Of several schemas, exactly one has to fit. If none does, the problems are those of the one
    /// that has the fewest.
    fn one_of(
        &self,
        schemas: &[Value],
        value: &Value,
        at: &str,
        problems: &mut Vec<String>,
    ) -> Option<String> {
        let of_each = schemas.iter().map(|schema| {
            let mut problems = Vec::new();
            self.check(schema, value, at, &mut problems);
            problems
        });
        let of_each: Vec<Vec<String>> = of_each.collect();
        match of_each.iter().filter(|problems| problems.is_empty()).count() {
            0 => problems.extend(of_each.into_iter().min_by_key(Vec::len).unwrap()),
            1 => {}
            _ => return Some("fits several schemas".to_owned()),
        }
        None
    }
}

fn has_type(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("the type {other} is not checked"),
    }
}

fn size(rule: &Value) -> usize {
    rule.as_u64().unwrap() as usize
}

/// The characters of a string.
fn length(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.chars().count())
}

fn items(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}
