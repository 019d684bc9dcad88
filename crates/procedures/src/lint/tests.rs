#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use cirrus_proto::limits::Limits;
use proptest::prelude::*;

use super::sandbox::{Global, Sandbox};
use super::scan::Path;
use super::{WARNINGS_MAX, compile, lint};
use crate::api::tyrant::SCRIPTED;
use crate::machine::Machine;
use crate::surroundings::Surroundings;

/// What a source is warned of, as `line:column code message`.
fn warned(source: &str) -> Vec<String> {
    let place = |line: u32, column: Option<u32>| match column {
        Some(column) => format!("{line}:{column}"),
        None => line.to_string(),
    };
    let warnings = lint(source.as_bytes()).into_iter();
    warnings.map(|found| format!("{} {} {}", place(found.line, found.column), found.code, found.message)).collect()
}

fn codes(source: &str) -> Vec<&'static str> {
    lint(source.as_bytes()).into_iter().map(|warning| warning.code).collect()
}

#[test]
fn each_kind_of_mistake_is_found_where_it_is() {
    for (source, expected) in [
        ("return (", "1 syntax-error Expected identifier when parsing expression, got <eof>"),
        ("local a = 1\nlocal a = b c", "2 syntax-error Incomplete statement: expected assignment or a function call"),
        (
            "function f(k)\n  return kvv.get(k)\nend",
            "2:10 unknown-global there is no global variable kvv; did you mean kv?",
        ),
        (
            "function f() return tonumbr('1') end",
            "1:21 unknown-global there is no global variable tonumbr; did you mean tonumber?",
        ),
        ("function f() return undefined_thing end", "1:21 unknown-global there is no global variable undefined_thing"),
        ("function f(k)\n\n\treturn kv.gett(k) end", "3:12 unknown-field kv has no gett; did you mean get?"),
        ("function f(k) return string.uper(k) end", "1:29 unknown-field string has no uper; did you mean upper?"),
        (
            "function f(k) kv.put(k, 1, {}) kv:delete(k) end",
            "1:35 method-call kv:delete(…) passes kv as the first argument; write kv.delete(…)",
        ),
        ("function f(k) return kv:nothing(k) end", "1:25 unknown-field kv has no nothing"),
        ("function f(k) return kv.get() end", "1:22 argument-count kv.get takes 1 argument, not 0"),
        ("function f(k) return kv.get(k, 1) end", "1:22 argument-count kv.get takes 1 argument, not 2"),
        ("function f(k) kv.put(k) end", "1:15 argument-count kv.put takes 2 to 3 arguments, not 1"),
        ("function f(k) _misc() end", "1:15 argument-count _misc takes at least 1 argument, not 0"),
        ("function f(k) _foreach(k, k) end", "1:15 argument-count _foreach takes 1 argument, not 2"),
        ("function f(k) return crypto.sha256() end", "1:22 argument-count crypto.sha256 takes 1 argument, not 0"),
        ("function f(k) kv.get(k) end", "1:15 unused-result the result of kv.get is not used"),
        ("function f(k) kv.cas(k, 1, 2) end", "1:15 unused-result the result of kv.cas is not used"),
        ("function f(k) json.encode(k) end", "1:15 unused-result the result of json.encode is not used"),
        ("function f(k) string.upper(k) end", "1:15 unused-result the result of string.upper is not used"),
        ("function f(k) math.floor(k) end", "1:15 unused-result the result of math.floor is not used"),
        ("function f(k) tonumber(k) end", "1:15 unused-result the result of tonumber is not used"),
        ("function f(k) _vsiz(k) end", "1:15 unused-result the result of _vsiz is not used"),
        (
            "function f()\n  local used, spare = 1, 2\n  return used\nend",
            "2:15 unused-local local spare is never read; where that is meant, let its name begin with _",
        ),
        (
            "local function helper()\n  return 1\nend\nfunction f() return 2 end",
            "1:16 unused-local local helper is never read; where that is meant, let its name begin with _",
        ),
        (
            "function f()\n  local options = {\n    a = 1,\n  }\n  return 2\nend",
            "2:9 unused-local local options is never read; where that is meant, let its name begin with _",
        ),
        (
            "local function recurse(n)\n  return recurse(n)\nend\nfunction f() return 2 end",
            "1:16 unused-local local recurse is never read; where that is meant, let its name begin with _",
        ),
        (
            "function f()\n  local set\n  set = 1\nend",
            "2:9 unused-local local set is never read; where that is meant, let its name begin with _",
        ),
    ] {
        assert_eq!(warned(source), [expected], "{source}");
    }
}

/// A name that a line has several times has no column: it is not known which it is.
#[test]
fn a_column_is_given_where_there_is_no_doubt() {
    assert_eq!(
        warned("function f(k) kv.get(k) return kv.get(k) end"),
        ["1 unused-result the result of kv.get is not used"]
    );
    assert_eq!(warned("function f() return 'ää', wrng end"), ["1:27 unknown-global there is no global variable wrng"]);
}

#[test]
fn what_is_no_mistake_is_not_reported() {
    for source in [
        // Globals of the source's own, also where they are set later, elsewhere, or by way of `_G`.
        "function f() return helper() end function helper() return x end x = 1",
        "_G.made = 1 function f() return made end",
        "local g = _G function f() g.made = 1 return made end",
        "for _, name in {'a'} do _G[name] = 1 end function f() return a end",
        "function f() return rawget(_G, 'x') or x end",
        "function f() return _G.perhaps end",
        // Tables and functions of the source's own that are called like ours.
        "kv = {gett = 1} function f() return kv.gett, kv:put() end",
        "function f() local kv = {} kv.gett = 1 return kv.gett end",
        "function f(kv) kv.get() return kv:get() end",
        "function uuid(a) return a end function f() uuid(1) end",
        // Numbers of arguments that are not in the source.
        "function f(...) return kv.get(...) end",
        "function f(k) return kv.put(k, kv.incr(k)), kv.put(k, f(k)) end",
        // Results that are used, or not the point.
        "function f(k) return kv.get(k) == nil and not kv.ttl(k) end",
        "function f(k) if kv.version(k) then return 1 end return {kv.get(k)} end",
        "function f(k) kv.put(k, 1) kv.delete(k) kv.incr(k) kv.append(k, 1) log('x') log.info('x') end",
        "function f(k) local _ = kv.get(k) pcall(kv.get, k) string.gsub(k, '.', print) table.insert({}, k) end",
        "function f(k) local value = kv.get(k) value:upper() return (value or tostring)(k) end",
        // Which function it is depends on what runs.
        "function f(k, x) local get = x and kv.get or kv.put get(k) end",
        "function f(k, x) local get = kv.get if x then get = x end get(k, 1) end",
        "function f(k, x) local get = kv.get local function set() get = x end set() get(k, 1) end",
        "function f(k, x) (x or kv.get)(k) end",
        "function f(k, x) local get if x then get = kv.get else get = x end get(k, 1) end",
        "function f(k, x) local get = kv.get while x do get(k, 1) get = x end end",
        // Local variables that are read, or need not be.
        "function f(unused) for i = 1, 3 do print('x') end for a, b in pairs({}) do print('x') end end",
        "function f(k) for i = 1, 3 do i = i + 1 print(i) end end",
        "local a = 1 function f() return function() return function() return a end end end",
        "local a = 1 function f() a = a + 1 end",
        "function f(t) local k, v = 'a', 1 t[k] = v local n = 1 t[n], t.x = n, n n += 1 end",
        "function f(...) local a, b = ... return a .. b end",
        "function f(t) local a, b = 1, 2 if a < b then return t end local c = t repeat local d = c until d end",
        "function f(t) local a = t for i = a, a do print(i) end for _ in a do print('x') end end",
        "function f(t) local a, b, c = 1, 2, 3 return {a, b, c, x = a, [b] = c} end",
        "function f(s) local a = 'x' return `{a}{s}`, #s, -s, not s, s % 2, s // 2, s ^ 2 end",
        // A library may be required.
        "local text = require('text') function f() return text.anything(1, 2) end",
        include_str!("../../../../docs/examples/counters.lua"),
        // Such comments must not change how it is compiled for lint.
        "--!optimize 2\n--!native\nlocal function one() return 1 end function f(k) return one() end",
    ] {
        assert_eq!(warned(source), [] as [&str; 0], "{source}");
    }
}

/// A name that stands for a function of the API is followed as far as it cannot change.
#[test]
fn other_names_for_our_functions_are_followed() {
    for source in [
        "local get = kv.get function f(k) return get() end",
        "local kv = kv function f(k) return kv.get() end",
        "local store = kv local get = store.get function f() return function() return get() end end",
        "function f(k) local get = kv.get return get() end",
        "function f(k) return _G.kv.get() end",
        "function f(k) return (kv.get)() end",
    ] {
        assert_eq!(codes(source), ["argument-count"], "{source}");
    }
    // What is to be native code is optimised, and linted as far as that goes.
    let native = "@native local function one(k) return kv.get(k) end local unused function f(k) one(1) kv.gett(k) return kv.get() end";
    assert_eq!(codes(native), ["argument-count", "unknown-field"]);
    assert_eq!(codes("--!optimize 2\nlocal get = kv.get function f(k) return get() end"), ["argument-count"]);
}

#[test]
fn many_warnings_are_bounded() {
    let source: String = (0..1000).map(|number| format!("print(unknown_{number})\n")).collect();
    let warnings = lint(source.as_bytes());
    assert_eq!(warnings.len(), WARNINGS_MAX + 1);
    let last = warnings.last().unwrap();
    assert_eq!((last.code, last.line), ("more", 51));
    assert_eq!(last.message, "950 more warnings are not shown");
    assert!(warnings.iter().all(|warning| warning.message.len() < 300));
    let long = format!("print({})", "x".repeat(100_000));
    assert!(lint(long.as_bytes())[0].message.len() < 300);
    assert_eq!(lint(b"return 1\n\xff")[0].line, 2);
}

/// All of Luau's syntax compiles to what lint can read.
#[test]
fn no_syntax_of_luau_is_unknown() {
    let source = r##"
        --!strict
        local a, b = 1, nil
        local big, hex, bits, sep = 1e300, 0xff, 0b1010, 1_000_000
        local text, long, interp = "\x41\u{48}\z
            x", [[long
            ]], `a {a} b { "x" .. tostring(b) }`
        type Pair<T> = { left: T, right: T?, [string]: any } | ((T, ...any) -> (T, T))
        export type Name = ("a" | "b") & typeof(a)
        local function typed<T>(x: T, ...: number): T return x end
        @native local function attributed() return 1 end
        function a_global(...) local one, two = ... return select("#", ...), one, two, ... end
        local object = { 1, 2, 3, x = 1, ["y"] = 2, [3 + 4] = typed(1), typed(2), n = nil, t = {}, f = function(...) return ... end }
        function object.method(x) return x end
        function object:self(x) return self.x, x end
        object.x += 1 object["y"] -= 2 object[1] *= 3 object[2] /= 4 object[3] //= 5 object.x %= 6 object.y ^= 7
        text ..= "x"
        local sum = a + 1 - 2 * 3 / 4 % 5 ^ 6 // 7 + (1 - a) / (2 / a) + 10 - a
        local compared = a == b, a ~= 1, a < 1, a <= 2, a > 3, a >= 4, a == nil, a == "x", a == true, a ~= false, #text, not a, -a
        local chosen = if a then 1 elseif b then 2 else 3
        local cast = (a :: any) :: number
        for i = 1, 10 do if i == 3 then continue elseif i == 5 then break else print(i) end end
        for i = 10, 1, -1 do i = i - 1 print(i) end
        for key, value in object do print(key, value) end
        for _, value in ipairs({}) do print(value) end
        for key in pairs({}) do print(key) end
        while a do a = nil if b then break end end
        repeat local c = a until c == nil or not c
        do local inner = 1 print(inner, function() inner = 2 end) end
        local closures = {} for i = 1, 3 do closures[i] = function() i += 1 return i, big, a end end
        print(a and b or sum, compared, chosen, cast, interp, long, hex, bits, sep, text, attributed, object:self(1), object.method)
        print((typed(1)), typed(1), typed "x", typed { 1 }, ("x"):rep(3), #{ ... }, closures)
        local v = vector.create(1, 2, 3) print(v.x)
        return { f = typed, g = a_global, ... }
    "##;
    compile("lib", source.as_bytes()).unwrap();
    let found = warned(source);
    assert!(!found.iter().any(|warning| warning.contains("not-linted")), "{found:?}");
    assert!(!found.iter().any(|warning| warning.contains("unknown-global")), "{found:?}");
}

/// Whatever the API and Luau's library have is either called for its result or known not to be.
#[test]
fn every_function_is_known_to_have_an_effect_or_not() {
    const WITH_AN_EFFECT: &[&str] = &[
        "_adddouble",
        "_addint",
        "_eval",
        "_foreach",
        "_glob",
        "_iterinit",
        "_iternext",
        "_lock",
        "_log",
        "_mapreduce",
        "_misc",
        "_mkdir",
        "_out",
        "_put",
        "_putcat",
        "_putkeep",
        "_remove",
        "_sleep",
        "_stashforeach",
        "_stashout",
        "_stashput",
        "_stashputcat",
        "_stashputkeep",
        "_stashvanish",
        "_stat",
        "_unlock",
        "_vanish",
        "assert",
        "buffer.copy",
        "buffer.fill",
        "buffer.writebits",
        "buffer.writef32",
        "buffer.writef64",
        "buffer.writei16",
        "buffer.writei32",
        "buffer.writei8",
        "buffer.writestring",
        "buffer.writeu16",
        "buffer.writeu32",
        "buffer.writeu8",
        "collectgarbage",
        "coroutine.close",
        "coroutine.resume",
        "coroutine.yield",
        "error",
        "json.array",
        "kv.append",
        "kv.delete",
        "kv.incr",
        "kv.put",
        "log.debug",
        "log.error",
        "log.info",
        "log.warn",
        "math.random",
        "math.randomseed",
        "pcall",
        "print",
        "rawset",
        "require",
        "setmetatable",
        "sql.exec",
        "string.gsub",
        "table.clear",
        "table.foreach",
        "table.foreachi",
        "table.freeze",
        "table.insert",
        "table.move",
        "table.remove",
        "table.sort",
        "xpcall",
    ];
    /// Not functions.
    const VALUES: &[&str] = &["_G", "_VERSION", "_pid", "_sid", "_thid", "_thnum", "_version"];
    let sandbox = Sandbox::get().unwrap();
    let mut names = Vec::new();
    for global in sandbox.names(None) {
        match sandbox.global(global) {
            Some(Global::Table(fields)) => names.extend(fields.iter().map(|field| (global, Some(field.as_slice())))),
            _ => names.push((global, None)),
        }
    }
    let mut with_an_effect: Vec<String> = Vec::new();
    for (global, field) in names {
        let path = Path { global, field };
        let name = super::sandbox::full_name(path);
        if !sandbox.is_for_its_result(path) && !VALUES.contains(&name.as_str()) {
            with_an_effect.push(name);
        }
    }
    with_an_effect.sort_unstable();
    assert_eq!(with_an_effect, WITH_AN_EFFECT);
}

/// The numbers of arguments that `tyrant.luau` checks itself are those that lint knows.
#[test]
fn scripted_functions_check_the_numbers_that_lint_knows() {
    let machine = Machine::new(Arc::default(), Surroundings::default()).unwrap();
    machine.begin(&Limits::DEFAULT, None).unwrap();
    for (name, arguments) in SCRIPTED {
        for count in [arguments.start() - 1, arguments.end() + 1] {
            let given = vec!["print"; count].join(", ");
            let source =
                format!("local ok, why = pcall({name}, {given}) return {{ [why] = print }}").replace(", )", ")");
            let main = machine.load("lib", &compile("lib", source.as_bytes()).unwrap()).unwrap();
            let Ok(defined) = machine.define("lib", &main, None) else { panic!("{source}") };
            let why = defined.exports.pairs::<String, mlua::Value>().next().unwrap().unwrap().0;
            assert!(why.starts_with(&format!("{name}: expected")), "{source}: {why}");
        }
    }
}

/// A source's largest accepted size, found by doubling and halving; most are refused by Luau beyond some depth.
fn largest_accepted(make: &dyn Fn(usize) -> String, bytes_max: usize) -> String {
    let accepted = |count: usize| {
        let source = make(count);
        source.len() <= bytes_max && compile("lib", source.as_bytes()).is_ok()
    };
    let (mut least, mut beyond) = (1, 2);
    while accepted(beyond) {
        (least, beyond) = (beyond, beyond * 2);
    }
    while beyond - least > 1 {
        let middle = least.midpoint(beyond);
        if accepted(middle) { least = middle } else { beyond = middle }
    }
    make(least)
}

/// Deep and wide sources, as much as Luau and the limit of a library's size let through.
#[test]
fn hostile_sources_are_linted_like_others() {
    let nested = |open: &'static str, middle: &'static str, close: &'static str| {
        move |count: usize| format!("return {}{middle}{}", open.repeat(count), close.repeat(count))
    };
    let blocks = |open: &'static str, close: &'static str| {
        move |count: usize| format!("{}{}", open.repeat(count), close.repeat(count))
    };
    let chain = |first: &'static str, more: &'static str, last: &'static str| {
        move |count: usize| format!("{first}{}{last}", more.repeat(count))
    };
    type Shape = Box<dyn Fn(usize) -> String>;
    let shapes: Vec<(&str, Shape)> = vec![
        ("parentheses", Box::new(nested("(", "1", ")"))),
        ("tables", Box::new(nested("{", "", "}"))),
        ("functions", Box::new(nested("function() return ", "1", " end"))),
        ("arguments", Box::new(nested("f(", "1", ")"))),
        ("indices", Box::new(nested("a[", "1", "]"))),
        ("interpolation", Box::new(nested("`{", "1", "}`"))),
        ("conditions", Box::new(nested("if ", "1", " then 1 else 1"))),
        ("choices", Box::new(nested("if a then 1 else ", "1", ""))),
        ("not", Box::new(nested("not ", "a", ""))),
        ("types", Box::new(|count| format!("type a = {}b{}", "{".repeat(count), "}".repeat(count)))),
        ("optional types", Box::new(|count| format!("type a = b{}", "?".repeat(count)))),
        ("do", Box::new(blocks("do ", " end"))),
        ("if", Box::new(blocks("if a then ", " end"))),
        ("else", Box::new(blocks("if a then else ", " end"))),
        ("while", Box::new(blocks("while a do ", " end"))),
        ("repeat", Box::new(blocks("repeat ", " until a"))),
        ("for", Box::new(blocks("for i = 1, 2 do ", " end"))),
        ("local functions", Box::new(blocks("local function f() ", " end"))),
        ("elseif", Box::new(chain("if a then ", "elseif a then ", "end"))),
        ("concatenation", Box::new(chain("return a", " .. a", ""))),
        ("sums", Box::new(chain("return a", " + a", ""))),
        ("powers", Box::new(chain("return a", " ^ a", ""))),
        ("and", Box::new(chain("return a", " and a", ""))),
        ("fields", Box::new(chain("return a", ".a", ""))),
        ("our fields", Box::new(chain("return kv", ".get", ""))),
        ("calls", Box::new(chain("return a", "()", ""))),
        ("methods", Box::new(chain("return a", ":a()", ""))),
        ("assignments", Box::new(chain("", "a=a ", ""))),
        ("statements", Box::new(chain("", "kv.get(k)\n", ""))),
        ("local variables", Box::new(chain("", "do local a=1 end ", ""))),
        ("many functions", Box::new(chain("", "function f()end ", ""))),
        ("many jumps", Box::new(chain("local k = kv ", "if a then k.get() end ", ""))),
        (
            "many known",
            Box::new(|count| {
                let locals: String = (0..190).map(|number| format!("local k{number} = kv.get ")).collect();
                format!("{locals}{}", "a=a and a ".repeat(count))
            }),
        ),
        (
            "many captures",
            Box::new(|count| {
                let locals: String = (0..150).map(|number| format!("local k{number} = kv.get ")).collect();
                let used: String = (0..150).map(|number| format!("k{number}()")).collect();
                format!("{locals}{}", format!("function f() {used} end ").repeat(count))
            }),
        ),
        ("a table's values", Box::new(chain("return {", "1,", "}"))),
        ("strings", Box::new(chain("return '", "x", "'"))),
        ("comments", Box::new(chain("", "--\n", ""))),
        ("lines", Box::new(chain("", "\n", "x()"))),
        ("names", Box::new(|count| (0..count).map(|number| format!("x{number}=y{number} ")).collect())),
    ];
    for (name, make) in shapes {
        let source = largest_accepted(&*make, Limits::DEFAULT.library_bytes);
        let warnings = lint(source.as_bytes());
        let not_linted: Vec<_> = warnings.iter().filter(|warning| warning.code == "not-linted").collect();
        // Without optimisation, constants take registers.
        let excused = not_linted.iter().all(|warning| warning.message.contains("registers"));
        assert!(excused, "{name}: {not_linted:?}");
        assert!(warnings.len() <= WARNINGS_MAX + 1, "{name}");
    }
}

const PIECES: &[&str] = &[
    "local a = kv.get\n",
    "a(b)\n",
    "kv.put(a, b)\n",
    "kv:get(a)\n",
    "if a then\n",
    "else\n",
    "elseif b then\n",
    "end\n",
    "function f(a, ...)\n",
    "local function g()\n",
    "return a, b\n",
    "for i = 1, a do\n",
    "for k, v in pairs(a) do\n",
    "while a do\n",
    "repeat\n",
    "until a\n",
    "do\n",
    "a, b = b, a\n",
    "a.b.c = { a, b = ..., [c] = 1 }\n",
    "a += 1\n",
    "local x, y, z = ...\n",
    "break\n",
    "continue\n",
    "x = a and b or c\n",
    "y = `{a} {b}`\n",
    "_G[a] = b\n",
    "_G.x = 1\n",
    "return function() a = b end\n",
    "x = if a then b else c\n",
    "(a or kv.get)(b)\n",
    "z = a .. b .. c\n",
    "z = a < b\n",
    "z = a == nil\n",
    "z = not a\n",
    "local u = 0x7fffffffffffffff\n",
    "z = a // 2\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever Luau compiles, lint reads.
    #[test]
    fn what_compiles_is_linted(picks in proptest::collection::vec(0..PIECES.len(), 0..24)) {
        let mut source: String = picks.iter().map(|&pick| PIECES[pick]).collect();
        // Some of the pieces open what has to be closed.
        for _ in 0..12 {
            if compile("lib", source.as_bytes()).is_ok() {
                break;
            }
            source.push_str("end\n");
        }
        let compiles = compile("lib", source.as_bytes()).is_ok();
        for warning in lint(source.as_bytes()) {
            prop_assert_eq!(warning.code == "syntax-error", !compiles, "{:?}", warning);
            prop_assert_ne!(warning.code, "not-linted", "{:?}", warning);
            prop_assert!(warning.line as usize <= source.lines().count().max(1), "{:?}", warning);
        }
    }
}
