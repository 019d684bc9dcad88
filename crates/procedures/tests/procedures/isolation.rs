//! No call leaves anything to the next but what it stored.

use cirrus_proto::Reason;

use crate::shard::Shard;

#[test]
fn variables_do_not_outlive_the_call() {
    let source = "
        local count, list = 0, {}
        total = 0
        function main()
            count, total = count + 1, total + 1
            list[#list + 1] = count
            made = (made or 0) + 1
            _G.through_table = (_G.through_table or 0) + 1
            rawset(_G, 'raw', (rawget(_G, 'raw') or 0) + 1)
            return table.concat({count, total, #list, made, through_table, raw}, ' ')
        end";
    let mut shard = Shard::new();
    for _ in 0..3 {
        assert_eq!(shard.main(source, &[]).unwrap(), "1 1 1 1 1 1");
    }
    let other = "function main() return tostring(made) .. tostring(total) .. tostring(_G.raw) end";
    assert_eq!(shard.main(other, &[]).unwrap(), "nilnilnil");
}

#[test]
fn what_calls_share_cannot_be_changed() {
    let attempts = [
        "string.x = 1",
        "string.find = nil",
        "kv.get = nil",
        "kv.extra = 1",
        "math.pi = 3",
        "table.insert = nil",
        "rawset(string, 'x', 1)",
        "rawset(kv, 'get', 1)",
        "rawset(getmetatable('').__index, 'x', 1)",
        "getmetatable('').__index = {}",
        "getmetatable('').x = 1",
        "rawset(getmetatable(''), '__add', print)",
        "setmetatable('', {})",
        "setmetatable(string, {})",
        "setmetatable(kv, {__index = print})",
        "setmetatable(_G, {})",
        "getmetatable(_G).__index.x = 1",
        "table.clear(string)",
        "table.insert(kv, 1)",
        "table.freeze(_G)",
        "table.move({1}, 1, 1, 1, kv)",
        "table.sort(setmetatable(kv, nil))",
        "getfenv(1).x = 1",
        "setfenv(1, {})",
        "setfenv(0, {})",
        "loadstring('x = 1')()",
        "require('lib')",
        "getmetatable(vector.create(1, 1, 1)).__index = print",
        "debug.sethook(print)",
        "debug.setmetatable('', {})",
        "newproxy(kv)",
    ];
    let mut shard = Shard::new();
    for attempt in attempts {
        let failure = shard.run(&format!("{attempt} return 1")).unwrap_err();
        assert_eq!(failure.reason, Reason::ProcedureFailed, "{attempt}: {failure}");
        let intact = "return type(kv.get) .. type(string.find) .. tostring(string.x) .. tostring(x) .. ('a'):upper()";
        assert_eq!(shard.run(intact).unwrap(), "functionfunctionnilnilA", "{attempt}");
    }
}

#[test]
fn shadowing_a_shared_name_is_the_calls_own_affair() {
    let mut shard = Shard::new();
    let source = "function tostring() return 'mine' end  kv = {get = function() return 'mine' end}
        function main() return tostring(1) .. kv.get() end";
    assert_eq!(shard.main(source, &[]).unwrap(), "minemine");
    assert_eq!(shard.run("return tostring(1) .. tostring(kv.get('a'))").unwrap(), "1nil");
}

#[test]
fn an_operation_kept_from_an_earlier_call_is_not_one_of_that_call() {
    // Functions cannot be kept; this shows that not even a coroutine that waits inside one survives.
    let mut shard = Shard::new();
    let source = "
        function main(key, step)
            kept = kept or coroutine.wrap(function() while true do coroutine.yield(kv.incr('n')) end end)
            return kept()
        end";
    assert_eq!(shard.main(source, &[]).unwrap(), "1");
    assert_eq!(shard.main(source, &[]).unwrap(), "2", "by a new coroutine, on the stored value");
}

#[test]
fn a_seed_does_not_reach_the_next_call() {
    let mut shard = Shard::new();
    let draw = "local t = {} for i = 1, 4 do t[i] = math.random(1, 1000000000) end return table.concat(t, ' ')";
    let seeded = format!("math.randomseed(42) {draw}");
    let first = shard.run(&seeded).unwrap();
    assert_eq!(shard.run(&seeded).unwrap(), first, "a seed is worth something within a call");
    let mut following = std::collections::HashSet::new();
    for _ in 0..5 {
        shard.run("math.randomseed(42) return 1").unwrap();
        following.insert(shard.run(draw).unwrap());
    }
    assert_eq!(following.len(), 5);
    assert!(!following.contains(&first));
}

#[test]
fn the_api_does_not_touch_the_stack_of_values_around_it() {
    let mut shard = Shard::new();
    let body = "local t = {1, kv.put('a', 2), kv.get('a'), _get('none'), kv.get('a')} return t[1] .. t[3] .. t[5]";
    assert_eq!(shard.run(body).unwrap(), "122");
}

#[test]
fn the_garbage_of_many_calls_does_not_gather() {
    let mut shard = Shard::new();
    let source = "function main() local t = {} for i = 1, 500 do t[i] = {i} end return math.floor(gcinfo() / 1024) end";
    let megabytes = |answer: String| answer.parse::<u32>().unwrap();
    for _ in 0..500 {
        let used = megabytes(shard.main(source, &[]).unwrap());
        assert!(used < 4, "the heap has {used} MiB");
    }
    // One that makes much garbage leaves no more behind than others.
    let wasteful = "function main() for i = 1, 100000 do local t = {i, i, i} end return 1 end";
    for _ in 0..3 {
        shard.main(wasteful, &[]).unwrap();
        let used = megabytes(shard.main(source, &[]).unwrap());
        assert!(used < 4, "the heap has {used} MiB");
    }
}
