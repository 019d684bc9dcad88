//! What a library's source declares of its functions, in comments:
//!
//! ```lua
//! --- Reserves so many pieces, if they are there.
//! ---@procedure reserve
//! ---@key item
//! ---@param wanted integer
//! ---@param note string? shown on the invoice
//! ---@return integer what is left
//! ---@limit cpu_ms 10
//! function reserve(item, wanted, note)
//! ```
//!
//! A block of lines that begin with `---` and has the tag `@procedure` is a declaration; all other comments are
//! comments. The parser does not look at what is code: lines of a long string that look so count as well.

use cirrus_proto::Failure;
use cirrus_proto::v1::{ParameterType, ProcedureDeclaration, ProcedureParameter};

use crate::library::is_export_name;
use crate::trouble::library_invalid;

/// Most parameters, and most keys, of one function.
const PARAMETERS_MAX: usize = 32;

/// Longest description of one function, bytes.
const DESCRIPTION_BYTES_MAX: usize = 4096;

/// The name of parameters without a name.
pub(crate) const REST: &str = "...";

const TYPES: [(&str, ParameterType); 7] = [
    ("any", ParameterType::Any),
    ("boolean", ParameterType::Boolean),
    ("integer", ParameterType::Integer),
    ("number", ParameterType::Number),
    ("string", ParameterType::String),
    ("list", ParameterType::List),
    ("map", ParameterType::Map),
];

/// The declarations of a source, by name. `exports` are the functions that there are, sorted.
///
/// Fails with [`Reason::LibraryInvalid`](cirrus_proto::Reason::LibraryInvalid), naming the line.
pub(crate) fn declarations(
    library: &str,
    source: &[u8],
    exports: &[String],
) -> Result<Vec<ProcedureDeclaration>, Failure> {
    let source = String::from_utf8_lossy(source);
    let mut declared: Vec<ProcedureDeclaration> = Vec::new();
    let mut block = Vec::new();
    for (number, line) in (1..).zip(source.lines().chain([""])) {
        if let Some(comment) = line.trim_start().strip_prefix("---") {
            block.push((number, comment.trim()));
            continue;
        }
        if let Some(declaration) = declaration(library, &std::mem::take(&mut block), exports)? {
            if declared.iter().any(|known| known.name == declaration.name) {
                let problem = format!("{} is declared twice", declaration.name);
                return Err(invalid(library, number - 1, &problem));
            }
            declared.push(declaration);
        }
    }
    declared.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(declared)
}

fn invalid(library: &str, line: u32, problem: &str) -> Failure {
    library_invalid(library, format!("{library}:{line}: {problem}"), Some(line))
}

fn declaration(
    library: &str,
    block: &[(u32, &str)],
    exports: &[String],
) -> Result<Option<ProcedureDeclaration>, Failure> {
    let mut declaration = ProcedureDeclaration::default();
    let is_declaration = |(_, text): &&(u32, &str)| tag(text).is_some_and(|(tag, _)| tag == "procedure");
    if block.iter().find(is_declaration).is_none() {
        return Ok(None);
    }
    let mut description: Vec<&str> = Vec::new();
    for &(line, text) in block {
        let refused = |problem: &str| invalid(library, line, problem);
        let Some((tag, rest)) = tag(text) else {
            description.push(text);
            continue;
        };
        match tag {
            "procedure" if !declaration.name.is_empty() => return Err(refused("a second @procedure in one comment")),
            "procedure" if exports.binary_search_by(|export| (**export).cmp(rest)).is_err() => {
                let shown: String = rest.chars().take(64).collect();
                return Err(refused(&format!("@procedure {shown:?}, but the library exports no such function")));
            }
            "procedure" => declaration.name = rest.to_owned(),
            "read_only" if rest.is_empty() => declaration.read_only = true,
            "key" => declaration.keys.push(name(rest.split_whitespace().next().unwrap_or("")).map_err(refused)?),
            "param" => {
                let parameter = parameter(rest).map_err(|problem| refused(&problem))?;
                check_order(declaration.parameters.last(), &parameter).map_err(refused)?;
                declaration.parameters.push(parameter);
            }
            "return" => declaration.returns = rest.to_owned(),
            "limit" => limit(rest, &mut declaration).map_err(refused)?,
            _ => {
                return Err(refused(
                    "unknown tag; there are @procedure NAME, @read_only, @key NAME, @param NAME TYPE, @return TYPE, @limit NAME VALUE",
                ));
            }
        }
        if declaration.parameters.len() > PARAMETERS_MAX || declaration.keys.len() > PARAMETERS_MAX {
            return Err(refused(&format!("more than {PARAMETERS_MAX} parameters or keys")));
        }
    }
    declaration.description = description.join("\n").trim().to_owned();
    if declaration.description.len() > DESCRIPTION_BYTES_MAX {
        let line = block.first().map_or(0, |(line, _)| *line);
        return Err(invalid(library, line, &format!("a description of more than {DESCRIPTION_BYTES_MAX} bytes")));
    }
    Ok(Some(declaration))
}

/// "@tag rest".
fn tag(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('@')?;
    let (tag, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    Some((tag, rest.trim()))
}

fn name(name: &str) -> Result<String, &'static str> {
    match is_export_name(name) {
        true => Ok(name.to_owned()),
        false => Err("a name is letters, digits and _, and begins with a letter"),
    }
}

/// "name type description"; "?" behind the name or the type where it may be left out.
fn parameter(text: &str) -> Result<ProcedureParameter, String> {
    let (name_text, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim_start();
    let (type_text, description) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let (name_text, optional_name) = optional(name_text);
    let (type_text, optional_type) = optional(type_text);
    let Some((_, parameter_type)) = TYPES.iter().find(|(known, _)| *known == type_text) else {
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        let shown: String = type_text.chars().take(40).collect();
        return Err(format!("@param NAME TYPE: the type is one of {}, not {shown:?}", names.join(", ")));
    };
    Ok(ProcedureParameter {
        name: if name_text == REST { REST.to_owned() } else { name(name_text)? },
        r#type: (*parameter_type).into(),
        optional: optional_name || optional_type,
        description: description.trim().to_owned(),
    })
}

fn optional(text: &str) -> (&str, bool) {
    text.strip_suffix('?').map_or((text, false), |text| (text, true))
}

fn check_order(last: Option<&ProcedureParameter>, next: &ProcedureParameter) -> Result<(), &'static str> {
    match last {
        Some(last) if last.name == REST => Err("... must be the last parameter"),
        Some(last) if last.optional && !next.optional && next.name != REST => {
            Err("a parameter that must be given cannot follow one that may be left out")
        }
        _ => Ok(()),
    }
}

/// "name value".
fn limit(text: &str, declaration: &mut ProcedureDeclaration) -> Result<(), &'static str> {
    let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let value = value.trim().parse().ok().filter(|&value| value > 0).ok_or("a limit is a whole number from 1")?;
    match name {
        "cpu_ms" => declaration.cpu_ms = value,
        "memory_bytes" => declaration.memory_bytes = value,
        "result_bytes" => declaration.result_bytes = value,
        _ => return Err("the limits are cpu_ms, memory_bytes and result_bytes"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn declared(source: &str) -> Result<Vec<ProcedureDeclaration>, String> {
        let exports = ["read", "reserve"].map(str::to_owned);
        declarations("lib", source.as_bytes(), &exports).map_err(|failure| failure.message)
    }

    #[test]
    fn a_comment_declares_a_function() {
        let source = "
-- not one
--- Nor this.
function read() end

  --- Reserves pieces,
  --- if they are there.
  ---@procedure reserve
  ---@key item
  ---@param wanted integer how many
  ---@param note? string
  ---@param ... any
  ---@return integer what is left
  ---@limit cpu_ms 10
  ---@limit memory_bytes 1048576
  ---@limit result_bytes 10
  function reserve(item, wanted, note, ...) end
---@procedure read
---@read_only";
        let declared = declared(source).unwrap();
        let parameter = |name: &str, parameter_type: ParameterType, optional, description: &str| ProcedureParameter {
            name: name.to_owned(),
            r#type: parameter_type.into(),
            optional,
            description: description.to_owned(),
        };
        let read = ProcedureDeclaration { name: "read".to_owned(), read_only: true, ..Default::default() };
        let reserve = ProcedureDeclaration {
            name: "reserve".to_owned(),
            description: "Reserves pieces,\nif they are there.".to_owned(),
            read_only: false,
            keys: vec!["item".to_owned()],
            parameters: vec![
                parameter("wanted", ParameterType::Integer, false, "how many"),
                parameter("note", ParameterType::String, true, ""),
                parameter("...", ParameterType::Any, false, ""),
            ],
            returns: "integer what is left".to_owned(),
            cpu_ms: 10,
            memory_bytes: 1 << 20,
            result_bytes: 10,
        };
        assert_eq!(declared, [read, reserve]);
    }

    #[test]
    fn a_mistake_names_its_line() {
        for (source, message) in [
            ("\n---@procedure gone", "lib:2: @procedure \"gone\", but the library exports no such function"),
            ("---@procedure read\n---@procedure reserve", "lib:2: a second @procedure in one comment"),
            ("---@procedure read\n\n---@procedure read", "lib:3: read is declared twice"),
            ("---@procedure read\n---@readonly", "lib:2: unknown tag"),
            ("---@procedure read\n---@param x int", "lib:2: @param NAME TYPE: the type is one of any, boolean,"),
            ("---@procedure read\n---@param", "lib:2: @param NAME TYPE"),
            ("---@procedure read\n---@param 1 any", "lib:2: a name is letters"),
            ("---@procedure read\n---@key", "lib:2: a name is letters"),
            ("---@procedure read\n---@param ... any\n---@param x any", "lib:3: ... must be the last"),
            ("---@procedure read\n---@param x any?\n---@param y any", "lib:3: a parameter that must be given"),
            ("---@procedure read\n---@limit cpu_ms 0", "lib:2: a limit is a whole number from 1"),
            ("---@procedure read\n---@limit writes 1", "lib:2: the limits are"),
        ] {
            let problem = declared(source).unwrap_err();
            assert!(problem.starts_with(message), "{source:?}: {problem}");
        }
        let many = format!("---@procedure read\n{}", "---@param x any\n".repeat(PARAMETERS_MAX + 1));
        assert!(declared(&many).unwrap_err().contains("more than 32 parameters"));
        let long = format!("--- {}\n---@procedure read", "x".repeat(DESCRIPTION_BYTES_MAX + 1));
        assert!(declared(&long).unwrap_err().contains("a description of more than"));
    }
}
