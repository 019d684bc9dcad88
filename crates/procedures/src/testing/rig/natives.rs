//! What expect.luau makes the tests' own functions of: calls, libraries, the clock.

use cirrus_proto::v1::CallRequest;
use cirrus_proto::{Failure, code_name};
use mlua::{Lua, MultiValue, Table, Value};

use super::Rig;
use crate::api::pure::Returned;
use crate::library::{compile, parse_requirement};
use crate::runtime::CallResult;
use crate::testing::describe::{describe, difference};
use crate::testing::report::TestCall;
use crate::testing::shards::Called;
use crate::text::{integer, text, type_name};
use crate::trouble::Trouble;
use crate::values;

/// What a function for the tests answers: what to raise, or nil and the value; in its place, an integer's digits.
type Answer = mlua::Result<(Value, Value, Value)>;

impl Rig<'_> {
    /// `typed`: arguments and result have types; else they are texts.
    pub(super) fn call(&self, lua: &Lua, given: MultiValue, typed: bool) -> Answer {
        let described = given.iter().skip(1).map(describe).collect::<mlua::Result<_>>()?;
        let request = match self.request(lua, given, typed)? {
            Ok(request) => request,
            Err(misuse) => return Ok((Value::String(lua.create_string(misuse)?), Value::Nil, Value::Nil)),
        };
        let Called { outcome, steps, writes } = self.shards()?.call(&request);
        let keep = |outcome| {
            let procedure = request.procedure.clone();
            *self.last_call.borrow_mut() = Some(TestCall { procedure, arguments: described, outcome, steps, writes });
        };
        let result = match outcome {
            Ok(CallResult::Value(value)) => values::to_lua(self.machine.context(), lua, &value)?,
            Ok(CallResult::Bytes(bytes)) => Returned::Value(Value::String(lua.create_string(bytes)?)),
            Err(failure) => {
                let raised = Value::Table(self.failure(lua, &failure)?);
                keep(Err(failure));
                return Ok((raised, Value::Nil, Value::Nil));
            }
        };
        match result {
            Returned::Value(value) => {
                keep(Ok(describe(&value)?));
                Ok((Value::Nil, value, Value::Nil))
            }
            Returned::Integer(integer) => {
                let digits = integer.to_string();
                keep(Ok(digits.clone()));
                Ok((Value::Nil, Value::Nil, Value::String(lua.create_string(digits)?)))
            }
        }
    }

    /// What is to be called, or how it was misused.
    fn request(&self, lua: &Lua, given: MultiValue, typed: bool) -> mlua::Result<Result<CallRequest, String>> {
        let got = |value: Option<&Value>| value.map_or("nothing", type_name);
        let mut given = given.into_iter();
        let procedure = match given.next() {
            Some(Value::String(procedure)) => procedure.to_string_lossy(),
            other => return Ok(Err(format!("call: the procedure must be a string, got {}", got(other.as_ref())))),
        };
        let named = match given.next() {
            Some(Value::Table(keys)) => keys.sequence_values::<Value>().collect::<mlua::Result<Vec<_>>>()?,
            other => other.into_iter().collect(),
        };
        let mut keys = Vec::with_capacity(named.len());
        for key in &named {
            match text(lua, key)? {
                Some(key) => keys.push(key),
                None => return Ok(Err(format!("call: a key must be a string or a number, got {}", type_name(key)))),
            }
        }
        let mut keys = keys.into_iter();
        let Some(key) = keys.next() else {
            return Ok(Err("call: the key must be a string, a number or a table of them, got nothing".to_owned()));
        };
        let more_keys = keys.collect();
        let mut request = CallRequest { procedure, key, more_keys, typed_result: typed, ..CallRequest::default() };
        for (number, argument) in (1..).zip(given) {
            if !typed {
                match text(lua, &argument)? {
                    Some(argument) => request.args.push(argument),
                    None => {
                        let got = type_name(&argument);
                        let problem = format!("call_text: argument {number} must be a string or a number, got {got}");
                        return Ok(Err(problem));
                    }
                }
                continue;
            }
            match values::from_lua(self.machine.context(), &argument, self.settings.limits.write_set_bytes) {
                Ok(value) => request.values.push(value),
                Err(Trouble::Failure(failure)) => {
                    let problem = failure.message.strip_prefix("the procedure's result ").unwrap_or(&failure.message);
                    return Ok(Err(format!("call: argument {number} {problem}")));
                }
                Err(Trouble::Lua(error)) => return Err(error),
            }
        }
        Ok(Ok(request))
    }

    pub(super) fn require(&self, lua: &Lua, name: Value) -> Answer {
        let Value::String(name) = name else {
            return misuse(lua, "require takes the name of a library, got", &name);
        };
        let required = parse_requirement(&name.to_string_lossy())
            .and_then(|(name, version)| self.linker.find(name, version))
            .map_err(Trouble::Failure)
            .and_then(|found| {
                let mut modules = self.modules.borrow_mut();
                for library in found.required.iter().chain([&found.source]) {
                    if modules.get(&library.name, library.version).is_none() {
                        let bytecode = compile(&library.name, &library.source)?;
                        let main = self.machine.load(&library.name, &bytecode)?;
                        let exports = self.machine.define_pinned(library, &main, &modules)?.exports;
                        modules.insert(library, exports);
                    }
                }
                let found = modules.get(&found.source.name, found.source.version);
                Ok(found.map_or(Value::Nil, |exports| Value::Table(exports.clone())))
            });
        match required {
            Ok(exports) => Ok((Value::Nil, exports, Value::Nil)),
            Err(Trouble::Failure(failure)) => Ok((Value::Table(self.failure(lua, &failure)?), Value::Nil, Value::Nil)),
            Err(Trouble::Lua(error)) => Err(error),
        }
    }

    pub(super) fn advance(&self, lua: &Lua, by: Value) -> Answer {
        match integer(&by).and_then(|by_ms| u64::try_from(by_ms).ok()) {
            Some(by_ms) => {
                let now_ms = self.shards()?.advance(by_ms);
                Ok((Value::Nil, Value::Number(now_ms as f64), Value::Nil))
            }
            None => misuse(lua, "advance takes milliseconds, a whole number from 0, got", &by),
        }
    }

    /// A failure as tests see it.
    fn failure(&self, lua: &Lua, failure: &Failure) -> mlua::Result<Table> {
        let table = lua.create_table()?;
        table.raw_set("reason", failure.reason.as_str())?;
        table.raw_set("message", failure.message.as_str())?;
        table.raw_set("code", code_name(failure.code()))?;
        table.raw_set("line", failure.metadata.get("line").and_then(|line| line.parse::<u32>().ok()))?;
        for name in ["library", "function", "procedure_reason"] {
            table.raw_set(name, failure.metadata.get(name).map(String::as_str))?;
        }
        let metadata = failure.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        table.raw_set("metadata", lua.create_table_from(metadata)?)?;
        table.set_metatable(Some(self.failure.clone()))?;
        Ok(table)
    }
}

fn misuse(lua: &Lua, problem: &str, got: &Value) -> Answer {
    let got = type_name(got);
    Ok((Value::String(lua.create_string(format!("{problem} {got}"))?), Value::Nil, Value::Nil))
}

/// What is wrong with the comparison, or nil; and the path.
pub(super) fn difference_for_lua(_: &Lua, (a, b): (Value, Value)) -> mlua::Result<(Option<String>, Option<String>)> {
    Ok(match difference(&a, &b) {
        Ok(path) => (None, path),
        Err(mlua::Error::RuntimeError(problem)) => (Some(problem), None),
        Err(other) => return Err(other),
    })
}
