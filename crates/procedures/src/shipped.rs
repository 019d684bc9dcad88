//! Libraries that come with Cirrus. They are ordinary ones: who wants one uploads it, under its name.

/// The names of all.
pub const NAMES: [&str; 1] = ["lightcloud"];

/// A library's source.
pub fn source(name: &str) -> Option<&'static str> {
    match name {
        "lightcloud" => Some(include_str!("shipped/lightcloud.luau")),
        _ => None,
    }
}
