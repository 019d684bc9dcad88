//! A call's keys and arguments, held to what its function declares.

use std::borrow::Cow;

use bytes::Bytes;
use cirrus_engine::parse_integer;
use cirrus_proto::Failure;
use cirrus_proto::v1::lua_value::Kind;
use cirrus_proto::v1::{LuaValue, ParameterType, ProcedureDeclaration, ProcedureParameter};

use crate::declarations::REST;
use crate::runtime::Arguments;
use crate::text::EXACT_INTEGER_MAX;

/// Longest part of a refused argument that is shown, characters.
const SHOWN_CHARS: usize = 40;

/// Arguments as the function gets them.
pub(crate) enum Checked<'a> {
    Strings(&'a [Bytes]),
    Values(Cow<'a, [LuaValue]>),
}

impl Checked<'_> {
    pub(crate) fn arguments(&self) -> Arguments<'_> {
        match self {
            Checked::Strings(strings) => Arguments::Strings(strings),
            Checked::Values(values) => Arguments::Values(values),
        }
    }
}

/// Whether a function that declares this may be called with so many keys and these arguments.
///
/// Fails with [`Reason::InvalidField`](cirrus_proto::Reason::InvalidField), naming the field and the parameter.
pub fn check_arguments(
    declaration: &ProcedureDeclaration,
    key_count: usize,
    arguments: Arguments<'_>,
) -> Result<(), Failure> {
    check(declaration, key_count, arguments).map(drop)
}

/// Checks the number of keys, and the number and types of arguments. A string becomes what its text says, where
/// another type is declared.
///
/// Fails with [`Reason::InvalidField`](cirrus_proto::Reason::InvalidField), naming the field and the parameter.
pub(crate) fn check<'a>(
    declaration: &ProcedureDeclaration,
    key_count: usize,
    arguments: Arguments<'a>,
) -> Result<Checked<'a>, Failure> {
    let ProcedureDeclaration { name, keys, parameters, .. } = declaration;
    if !keys.is_empty() && keys.len() != key_count {
        let problem = format!("{name} takes {} keys ({}), got {key_count}", keys.len(), keys.join(", "));
        return Err(Failure::invalid_field("more_keys", problem));
    }
    if parameters.is_empty() {
        return Ok(match arguments {
            Arguments::Strings(strings) => Checked::Strings(strings),
            Arguments::Values(values) => Checked::Values(Cow::Borrowed(values)),
        });
    }
    let count = match arguments {
        Arguments::Strings(strings) => strings.len(),
        Arguments::Values(values) => values.len(),
    };
    check_count(declaration, count, arguments)?;
    let rest = parameters.last().filter(|last| last.name == REST);
    let parameter = |index: usize| parameters.get(index).or(rest);
    Ok(Checked::Values(match arguments {
        Arguments::Values(values) => {
            for (index, value) in values.iter().enumerate() {
                let Some(parameter) = parameter(index) else { continue };
                if !fits(parameter, value) {
                    return Err(mismatch(declaration, parameter, format!("values[{index}]"), &shown(value)));
                }
            }
            Cow::Borrowed(values)
        }
        Arguments::Strings(strings) => {
            let typed = strings.iter().enumerate().map(|(index, text)| {
                let parameter = parameter(index);
                let kind = match parameter.map_or(ParameterType::Any, ProcedureParameter::r#type) {
                    ParameterType::Any | ParameterType::String | ParameterType::Unspecified => {
                        Some(Kind::Bytes(text.clone()))
                    }
                    ParameterType::Boolean => boolean(text),
                    ParameterType::Integer => parse_integer(text).map(Kind::Int64),
                    ParameterType::Number => number(text),
                    ParameterType::List | ParameterType::Map => None,
                };
                match (kind, parameter) {
                    (None, Some(parameter)) => {
                        let text = format!("the text {}", quoted(text));
                        Err(mismatch(declaration, parameter, format!("args[{index}]"), &text))
                    }
                    (kind, _) => Ok(LuaValue { kind }),
                }
            });
            Cow::Owned(typed.collect::<Result<_, _>>()?)
        }
    }))
}

fn check_count(declaration: &ProcedureDeclaration, count: usize, arguments: Arguments<'_>) -> Result<(), Failure> {
    let ProcedureDeclaration { name, parameters, .. } = declaration;
    let has_rest = parameters.last().is_some_and(|last| last.name == REST);
    let least = parameters.iter().filter(|parameter| !parameter.optional && parameter.name != REST).count();
    let most = parameters.len();
    if count >= least && (has_rest || count <= most) {
        return Ok(());
    }
    let field = match arguments {
        Arguments::Strings(_) => "args",
        Arguments::Values(_) => "values",
    };
    let expected = match (least, has_rest) {
        (least, true) => format!("at least {least}"),
        (least, false) if least == most => least.to_string(),
        (least, false) => format!("{least} to {most}"),
    };
    let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let problem = format!("{name} takes {expected} arguments behind its keys ({}), got {count}", names.join(", "));
    Err(Failure::invalid_field(field, problem).with("actual", count))
}

fn fits(parameter: &ProcedureParameter, value: &LuaValue) -> bool {
    match (parameter.r#type(), &value.kind) {
        (_, None | Some(Kind::Nil(_))) => parameter.optional || parameter.r#type() == ParameterType::Any,
        (ParameterType::Any | ParameterType::Unspecified, _)
        | (ParameterType::Boolean, Some(Kind::Boolean(_)))
        | (ParameterType::Integer | ParameterType::Number, Some(Kind::Int64(_)))
        | (ParameterType::Number, Some(Kind::Double(_)))
        | (ParameterType::String, Some(Kind::Bytes(_)))
        | (ParameterType::List, Some(Kind::List(_)))
        | (ParameterType::Map, Some(Kind::Map(_))) => true,
        // Lua has one kind of number, and so have some clients.
        (ParameterType::Integer, Some(Kind::Double(number))) => {
            number.fract() == 0.0 && number.abs() <= EXACT_INTEGER_MAX as f64
        }
        // An empty table is both.
        (ParameterType::List, Some(Kind::Map(map))) => map.entries.is_empty(),
        _ => false,
    }
}

fn boolean(text: &[u8]) -> Option<Kind> {
    match text {
        b"true" => Some(Kind::Boolean(true)),
        b"false" => Some(Kind::Boolean(false)),
        _ => None,
    }
}

/// A finite number: a whole one of 64 bits exactly, others as the nearest double.
fn number(text: &[u8]) -> Option<Kind> {
    if let Some(integer) = parse_integer(text) {
        return Some(Kind::Int64(integer));
    }
    let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    number.is_finite().then_some(Kind::Double(number))
}

fn mismatch(
    declaration: &ProcedureDeclaration,
    parameter: &ProcedureParameter,
    field: String,
    actual: &str,
) -> Failure {
    let expected = match parameter.r#type() {
        ParameterType::Integer => "a whole number of 64 bits",
        ParameterType::Number => "a number",
        ParameterType::Boolean => "true or false",
        ParameterType::String => "a string",
        ParameterType::List => "a list, given as a value with a type",
        ParameterType::Map => "a map, given as a value with a type",
        ParameterType::Any | ParameterType::Unspecified => "a value",
    };
    let (function, name) = (&declaration.name, &parameter.name);
    let problem = format!("{function}'s argument {name} must be {expected}, got {actual}");
    Failure::invalid_field(&field, problem).with("parameter", name)
}

fn shown(value: &LuaValue) -> String {
    match &value.kind {
        None | Some(Kind::Nil(_)) => "nil".to_owned(),
        Some(Kind::Boolean(boolean)) => boolean.to_string(),
        Some(Kind::Int64(integer)) => integer.to_string(),
        Some(Kind::Double(number)) => number.to_string(),
        Some(Kind::Bytes(bytes)) => format!("the string {}", quoted(bytes)),
        Some(Kind::List(_)) => "a list".to_owned(),
        Some(Kind::Map(_)) => "a map".to_owned(),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_CHARS * 4)]);
    format!("{:?}", text.chars().take(SHOWN_CHARS).collect::<String>())
}
