//! Writes JSON objects whose keys stay in the order in which they are put.

use serde_json::Value;

/// An object that is being written.
#[derive(Debug)]
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Self {
        Object("{".to_owned())
    }

    /// Adds a value.
    pub(super) fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.put_written(key, &value.into().to_string());
    }

    /// Adds a value, unless it is `None`.
    pub(super) fn put_some<T: Clone + Into<Value>>(&mut self, key: &str, value: &Option<T>) {
        if let Some(value) = value {
            self.put(key, value.clone());
        }
    }

    /// Adds a value that is written already.
    pub(super) fn put_written(&mut self, key: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&Value::from(key).to_string());
        self.0.push(':');
        self.0.push_str(value);
    }

    /// The whole object.
    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_stay_in_their_order_and_strings_are_escaped() {
        assert_eq!(Object::new().end(), "{}");
        let mut inner = Object::new();
        inner.put("z", 1);
        let mut object = Object::new();
        object.put("b", json!(["\"\n", null]));
        object.put_some("none", &None::<u32>);
        object.put_some("a", &Some(true));
        object.put_written("in", &inner.end());
        assert_eq!(object.end(), r#"{"b":["\"\n",null],"a":true,"in":{"z":1}}"#);
    }
}
