//! The layer of `CIRRUS_*` variables.

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::ServerConfig;

/// The prefix of environment variables that configure a node.
pub const ENVIRONMENT_PREFIX: &str = "CIRRUS_";

/// The layer of `CIRRUS_*` variables that name a known key.
pub(super) struct Environment(Dict);

impl Environment {
    pub(super) fn of(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
        let known = known_keys();
        let mut keys = Dict::new();
        for (name, text) in variables {
            let Some(name) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let name = name.to_ascii_lowercase();
            let Some(key) = known.iter().find(|key| key.replace('.', "_") == name) else { continue };
            insert(&mut keys, key, parse(&text));
        }
        Environment(keys)
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("the environment").interpolater(|_: &Profile, keys: &[&str]| {
            format!("{ENVIRONMENT_PREFIX}{}", keys.join("_").to_ascii_uppercase())
        })
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}

/// Every key of the configuration, as "section.key".
fn known_keys() -> Vec<String> {
    fn collect(prefix: &str, dict: &Dict, keys: &mut Vec<String>) {
        for (name, value) in dict {
            match value.as_dict() {
                Some(section) => collect(&format!("{prefix}{name}."), section, keys),
                None => keys.push(format!("{prefix}{name}")),
            }
        }
    }
    // The optional keys are given a value, so that they are listed.
    let every =
        ServerConfig { advertise: Some(String::new()), http_advertise: Some(String::new()), ..ServerConfig::default() };
    let value = Value::serialize(every).expect("the configuration is a tree of plain values");
    let mut keys = Vec::new();
    collect("", value.as_dict().expect("a struct serializes to a dictionary"), &mut keys);
    keys
}

fn insert(dict: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            dict.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry = dict.entry(section.to_owned()).or_insert_with(|| Dict::new().into());
            if let Value::Dict(_, section) = entry {
                insert(section, rest, value);
            }
        }
    }
}

/// A number where the text is one, else the text: no key needs more.
fn parse(text: &str) -> Value {
    match text.trim().parse::<u64>() {
        Ok(number) => Value::from(number),
        Err(_) => Value::from(text.trim()),
    }
}
