//! What editors should know of the sandbox, as definitions for luau-lsp.

/// The definitions of everything that the sandbox adds to Luau: a `.d.luau` file.
pub const TYPES: &str = include_str!("types.d.luau");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use mlua::{Lua, LuaString, Table, Value};

    use super::TYPES;
    use crate::api::{MANY, signatures};
    use crate::library::compile;
    use crate::machine::Machine;
    use crate::surroundings::Surroundings;

    /// What the file declares, by full name, with the parameters of functions.
    fn declared() -> BTreeMap<String, Option<String>> {
        let mut names = BTreeMap::new();
        let mut table: Option<String> = None;
        for line in TYPES.lines() {
            if let Some(rest) = line.strip_prefix("declare function ") {
                let (name, rest) = rest.split_once('(').unwrap();
                names.insert(name.to_owned(), Some(parameters(rest)));
            } else if let Some(rest) = line.strip_prefix("declare ") {
                let (name, rest) = rest.split_once(": ").unwrap();
                table = (rest == "{").then(|| name.to_owned());
                names.insert(name.to_owned(), None);
            } else if line.starts_with('}') {
                table = None;
            } else if let Some(table) = &table
                && let Some((name, rest)) = line.trim_start().split_once(": ")
                && !name.starts_with("--")
            {
                let function = rest.split_once('(').filter(|(generics, _)| generics.len() < 4);
                names.insert(format!("{table}.{name}"), function.map(|(_, rest)| parameters(rest)));
            }
        }
        names
    }

    /// Up to the parenthesis that closes the list.
    fn parameters(text: &str) -> String {
        let mut depth = 1;
        let end = text.char_indices().find(|(_, char)| {
            depth += match char {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        text[..end.unwrap().0].to_owned()
    }

    /// How many must be given, and how many may.
    fn count(parameters: &str) -> (usize, usize) {
        let (mut depth, mut list) = (0, vec![String::new()]);
        for char in parameters.chars() {
            match char {
                '(' | '{' | '<' => depth += 1,
                ')' | '}' => depth -= 1,
                ',' if depth == 0 => list.push(String::new()),
                _ => {}
            }
            list.last_mut().unwrap().push(char);
        }
        let list: Vec<&str> =
            list.iter().map(|one| one.trim_matches([' ', ','])).filter(|one| !one.is_empty()).collect();
        let is_rest = |one: &&&str| one.starts_with("...");
        let least = list.iter().filter(|one| !is_rest(one) && !one.ends_with('?')).count();
        (least, if list.iter().any(|one| is_rest(&one)) { MANY } else { list.len() })
    }

    fn names(table: &Table, prefix: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for pair in table.pairs::<LuaString, Value>() {
            let (name, value) = pair.unwrap();
            let name = format!("{prefix}{}", name.to_string_lossy());
            if let (Value::Table(fields), "") = (&value, prefix) {
                names.extend(self::names(fields, &format!("{name}.")));
            }
            names.insert(name);
        }
        names
    }

    #[test]
    fn the_definitions_are_those_of_the_sandbox() {
        let sandbox =
            names(&Machine::new(Arc::default(), Surroundings::default()).unwrap().shared_globals().unwrap(), "");
        let luau = names(&Lua::new().globals(), "");
        // What it has beyond Luau; `error` it has otherwise.
        let mut expected: BTreeSet<String> = sandbox.difference(&luau).cloned().collect();
        expected.insert("error".to_owned());
        let declared: BTreeSet<String> = declared().into_keys().collect();
        assert_eq!(declared, expected);
    }

    #[test]
    fn functions_take_as_many_arguments_as_they_are_declared_with() {
        let declared = declared();
        for (table, name, arguments) in signatures().filter(|(_, name, _)| *name != "print") {
            let full_name = table.map_or(name.to_owned(), |table| format!("{table}.{name}"));
            let parameters = declared[&full_name].as_deref().unwrap_or_else(|| panic!("{full_name} is no function"));
            let (least, most) = count(parameters);
            // A line of the log takes up to 64.
            let most = if table == Some("log") { *arguments.end() } else { most };
            assert_eq!((least, most), (*arguments.start(), *arguments.end()), "{full_name}({parameters})");
        }
    }

    /// Luau's compiler reads types, but not declarations: each is made a type of its own.
    #[test]
    fn the_definitions_are_in_luaus_syntax() {
        let mut source = String::new();
        for (number, line) in TYPES.lines().enumerate() {
            let line = match line.strip_prefix("declare function ").and_then(|rest| rest.split_once('(')) {
                Some((_, rest)) => {
                    let end = parameters(rest).len();
                    format!("type _{number} = ({}) -> {}", &rest[..end], rest[end + 1..].trim_start_matches(": "))
                }
                None => match line.strip_prefix("declare ").and_then(|rest| rest.split_once(": ")) {
                    Some((_, rest)) => format!("type _{number} = {rest}"),
                    None => line.to_owned(),
                },
            };
            source.push_str(&line);
            source.push('\n');
        }
        compile("types", source.as_bytes()).unwrap();
        assert!(compile("types", source.replace("Pair }", "Pair").as_bytes()).is_err(), "mistakes are noticed");
    }
}
