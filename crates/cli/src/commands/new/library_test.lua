-- Tests of the library LIBRARY. Each function whose name begins with test runs in shards of its own, which are empty:
--
--   cirrus proc test LIBRARY_test.lua

function test_counts_from_nothing()
    expect.equal(call("LIBRARY.read", "visits"), 0)
    expect.equal(call("LIBRARY.add", "visits", 2), 2)
    expect.equal(call("LIBRARY.add", "visits", 3), 5)
    expect.equal(call("LIBRARY.read", "visits"), 5)
end

function test_goes_on_from_what_is_stored()
    kv.put("visits", 40)
    expect.equal(call("LIBRARY.add", "visits", 2), 42)
    expect.equal(kv.get("visits"), "42")
end

function test_refuses_amounts_below_one()
    expect.error("AMOUNT_TOO_SMALL", function()
        call("LIBRARY.add", "visits", 0)
    end)
    expect.equal(kv.get("visits"), nil, "a call that fails writes nothing")
end
