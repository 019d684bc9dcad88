-- Counters: each key holds a number as decimal text.
--
--   cirrus proc upload docs/examples/counters.lua
--   cirrus proc call counters.incr --key hits 5

-- Adds to the key's number, 1 where no amount is given, and returns the sum. Exact in signed 64 bits.
function incr(key, amount)
    return kv.incr(key, amount or 1)
end

-- The key's number; 0 where it has none.
function read(key)
    return kv.get(key) or 0
end

-- Sets the key's number to 0 and returns what it was.
function reset(key)
    local was = kv.get(key) or 0
    kv.put(key, 0)
    return was
end
