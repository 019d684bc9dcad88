//! Whole scripts in the manner of those that came with Tokyo Tyrant and LightCloud, unchanged for Cirrus.

use crate::shard::Shard;

/// Calls one function after the other, with one argument beside the key, which is `k`.
fn runs(source: &str, calls: &[(&str, &str, &str)]) {
    let mut shard = Shard::new();
    for (function, argument, expected) in calls {
        let answer = match shard.call(source, function, &[argument.as_bytes()]) {
            Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
            Err(failure) => format!("({})", failure.reason.as_str()),
        };
        assert_eq!(answer, *expected, "{function}({argument})");
    }
}

#[test]
fn plain_functions() {
    let source = r#"
        function _begin() _log("started") end
        function _end() _log("finished") end
        function echo(key, value)
           return key .. "\t" .. value .. "\n"
        end
        function add(key, value)
           value = tonumber(value)
           if not value then return nil end
           return _addint(key, value)
        end
        function size(key)
           local vsiz = _vsiz(key)
           if vsiz < 0 then return nil end
           return vsiz
        end
        function incrint64(key, value)
           value = tonumber(value)
           local old = _unpack("l", _get("i64"))
           if old and #old == 1 then value = value + old[1] end
           if not _put("i64", _pack("l", value)) then return nil end
           return value
        end
        function find(pattern)
           local res = ""
           function proc(tkey, tvalue)
              if string.match(tkey, pattern) then res = res .. tkey .. "=" .. #tvalue .. ";" end
              return true
           end
           _foreach(proc)
           return res
        end
        function near(key, value)
           local res = ""
           function proc(tkey)
              if _dist(tkey, key) <= tonumber(value) then res = res .. tkey .. ";" end
              return true
           end
           _foreach(proc)
           return res
        end
        function status()
           return _version .. " " .. _rnum() .. " " .. _size() .. " " .. (_time() > 0 and "up" or "down") .. " " .. _thid
        end
        function misc(key, value)
           local args = {}
           for arg in string.gmatch(value, "[^\t\n]+") do table.insert(args, arg) end
           local name = table.remove(args, 1)
           local res = _misc(name, args)
           if not res then return nil end
           return table.concat(res, "|")
        end
        function ucs(key, value)
           return _ucs(_unpack("n*", _pack("n*", _ucs(value))))
        end
        function eval(key, value)
           if not _eval(value) then return nil end
           return "ok"
        end
        function lines(key, value)
           local elems = _split(value, ",")
           local res = ""
           for i = 1, #elems do res = res .. elems[i] .. "\n" end
           return res
        end
        function later() _sleep(0.001) return "ok" end"#;
    runs(
        source,
        &[
            ("echo", "five", "k\tfive\n"),
            ("add", "5", "5"),
            ("add", "-2", "3"),
            ("add", "x", "(PROCEDURE_RETURNED_NOTHING)"),
            ("size", "", "4"),
            ("incrint64", "40", "40"),
            ("incrint64", "2", "42"),
            ("find", "", "k=4;"),
            ("near", "2", "k;"),
            ("near", "3", "i64;k;"),
            ("near", "0", "k;"),
            ("status", "", "1.1.41 2 16 up 1"),
            ("misc", "put\tm\tvalue", ""),
            ("misc", "getlist\tm\tnone", "m|value"),
            ("misc", "search\tx", "(PROCEDURE_RETURNED_NOTHING)"),
            ("ucs", "aé€", "aé€"),
            ("eval", "_put('e', 1)", "ok"),
            ("eval", "!", "(PROCEDURE_RETURNED_NOTHING)"),
            ("lines", "a,b", "a\nb\n"),
            ("later", "", "ok"),
        ],
    );
}

#[test]
fn a_queue() {
    let source = r#"
        function enqueue(key, value)
           local id = _adddouble(key, 1)
           if not id then return nil end
           key = string.format("%s\t%012d", key, id)
           if not _putkeep(key, value) then return nil end
           return "ok"
        end
        function dequeue(key, max)
           max = tonumber(max)
           if not max or max < 1 then max = 1 end
           local keys = _fwmkeys(string.format("%s\t", key), max)
           local res = ""
           for i = 1, #keys do
              local value = _get(keys[i])
              if _out(keys[i]) and value then res = res .. value .. "\n" end
           end
           return res
        end
        function queuesize(key)
           return #_fwmkeys(string.format("%s\t", key))
        end"#;
    runs(
        source,
        &[
            ("enqueue", "one", "ok"),
            ("enqueue", "two", "ok"),
            ("enqueue", "three", "ok"),
            ("queuesize", "", "3"),
            ("dequeue", "2", "one\ntwo\n"),
            ("queuesize", "", "1"),
            ("dequeue", "", "three\n"),
            ("dequeue", "", ""),
        ],
    );
}

#[test]
fn words_are_counted() {
    let source = r#"
        function store(key, value)
           _put("d" .. _rnum(), value)
           return "ok"
        end
        function wordcount()
           function mapper(key, value, mapemit)
              for word in string.gmatch(string.lower(value), "%w+") do mapemit(word, 1) end
              return true
           end
           local res = ""
           function reducer(key, values)
              res = res .. key .. "\t" .. #values .. "\n"
              return true
           end
           if not _mapreduce(mapper, reducer) then res = nil end
           return res
        end"#;
    runs(
        source,
        &[
            ("store", "The quick fox", "ok"),
            ("store", "the lazy dog, the fox", "ok"),
            ("wordcount", "", "dog\t1\nfox\t2\nlazy\t1\nquick\t1\nthe\t3\n"),
        ],
    );
}

#[test]
fn what_expired_is_swept() {
    let source = r#"
        function store(key, value)
           _put("s:" .. value, _pack("d", tonumber(value)) .. "data")
           return "ok"
        end
        function sweep(key, value)
           local now, removed = tonumber(value), 0
           local keys = _fwmkeys("s:")
           for i = 1, #keys do
              local expiry = _unpack("d", _get(keys[i]))[1]
              if expiry <= now and _out(keys[i]) then removed = removed + 1 end
           end
           return removed
        end"#;
    runs(
        source,
        &[
            ("store", "10", "ok"),
            ("store", "20", "ok"),
            ("store", "30", "ok"),
            ("sweep", "20", "2"),
            ("sweep", "20", "0"),
            ("sweep", "40", "1"),
        ],
    );
}

#[test]
fn tags_are_sets() {
    let source = r#"
        function tag(key, value)
           local item, tag = value:match("(%w+) (%w+)")
           local items = _get("t:" .. tag)
           items = items and _split(items, ",") or {}
           _put("t:" .. tag, table.concat(_union(items, {item}), ","))
           return "ok"
        end
        function both(key, value)
           local sets = {}
           for i, tag in ipairs(_split(value, " ")) do sets[i] = _split(_get("t:" .. tag), ",") end
           return table.concat(_isect(sets), ",")
        end"#;
    runs(
        source,
        &[
            ("tag", "apple red", "ok"),
            ("tag", "cherry red", "ok"),
            ("tag", "cherry red", "ok"),
            ("tag", "apple green", "ok"),
            ("both", "red green", "apple"),
            ("both", "red", "apple,cherry"),
        ],
    );
}

#[test]
fn lightclouds_lists() {
    let source = r#"
        function list_init(key)
           return _put(key, "") and "ok"
        end
        function list_add(key, values)
           local limit = 4
           local current = _get(key)
           local list = {}
           if current and #current > 0 then list = _split(current, "~") end
           for _, value in ipairs(_split(values, "~")) do
              local known = false
              for _, old in ipairs(list) do
                 if old == value then known = true end
              end
              if not known then table.insert(list, value) end
           end
           while #list > limit do table.remove(list, 1) end
           if not _put(key, table.concat(list, "~")) then return nil end
           return "ok"
        end
        function list_remove(key, values)
           local kept = {}
           for _, old in ipairs(_split(_get(key), "~")) do
              local gone = false
              for _, value in ipairs(_split(values, "~")) do
                 if old == value then gone = true end
              end
              if not gone then table.insert(kept, old) end
           end
           _put(key, table.concat(kept, "~"))
           return "ok"
        end
        function list_get(key)
           return _get(key)
        end"#;
    runs(
        source,
        &[
            ("list_init", "", "ok"),
            ("list_add", "a~b", "ok"),
            ("list_add", "b~c", "ok"),
            ("list_get", "", "a~b~c"),
            ("list_add", "d~e", "ok"),
            ("list_get", "", "b~c~d~e"),
            ("list_remove", "c~e", "ok"),
            ("list_get", "", "b~d"),
        ],
    );
}
