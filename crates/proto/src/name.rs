//! How libraries and schedules are named, and how a call names what it runs.

use crate::Failure;

/// Longest name, characters.
pub const NAME_CHARACTERS_MAX: usize = 64;

/// Whether a library or a schedule may be named so: letters, digits, `_` and `-`.
pub fn is_name(name: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
    !name.is_empty() && name.len() <= NAME_CHARACTERS_MAX && name.chars().all(allowed)
}

/// "library.function", or "library@version.function" for one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcedureName<'a> {
    /// Any text; whether it is a library's name is not checked here.
    pub library: &'a str,
    /// From 1. `None`: the version that is active.
    pub version: Option<u64>,
    /// Any text.
    pub function: &'a str,
}

impl<'a> ProcedureName<'a> {
    /// Fails with INVALID_FIELD for anything else.
    pub fn parse(procedure: &'a str) -> Result<Self, Failure> {
        let malformed = || Self::malformed(procedure);
        let (library, function) = procedure.split_once('.').ok_or_else(malformed)?;
        let (library, version) = match library.split_once('@') {
            None => (library, None),
            Some((library, version)) => {
                let plain = version.bytes().all(|byte| byte.is_ascii_digit());
                let version = version.parse().ok().filter(|&version| plain && version > 0);
                (library, Some(version.ok_or_else(malformed)?))
            }
        };
        if library.is_empty() || function.is_empty() {
            return Err(malformed());
        }
        Ok(ProcedureName { library, version, function })
    }

    /// INVALID_FIELD for a text that is no procedure's name.
    pub fn malformed(procedure: &str) -> Failure {
        let problem = format!(
            "must be \"library.function\" or \"library@version.function\", not {:?}",
            procedure.chars().take(160).collect::<String>()
        );
        Failure::invalid_field("procedure", problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_optional_and_from_one() {
        let name = |library, version, function| Ok(ProcedureName { library, version, function });
        for (text, expected) in [
            ("a.b", name("a", None, "b")),
            ("a@1.b", name("a", Some(1), "b")),
            ("a-b@18446744073709551615.c.d", name("a-b", Some(u64::MAX), "c.d")),
        ] {
            assert_eq!(ProcedureName::parse(text), expected, "{text}");
        }
        for text in
            ["", "a", ".b", "a.", "a@.b", "a@0.b", "a@-1.b", "a@+1.b", "a@x.b", "@1.b", "a@18446744073709551616.b"]
        {
            assert!(ProcedureName::parse(text).is_err(), "{text}");
        }
    }
}
