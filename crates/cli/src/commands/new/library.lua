-- The library LIBRARY: each key holds a count.
--
-- Comments that begin with three dashes declare procedures: calls are held to them before they run.

--- Adds to the count, and answers the new one.
---@procedure add
---@key counter
---@param amount integer
---@return integer
---@limit cpu_ms 10
function add(counter, amount)
    if amount < 1 then
        error("INVALID_ARGUMENT", "the amount must be at least 1, not " .. amount, "AMOUNT_TOO_SMALL")
    end
    return kv.incr(counter, amount)
end

--- The count; 0 where nothing was counted.
---@procedure read
---@key counter
---@return integer
---@read_only
function read(counter)
    return tonumber(kv.get(counter)) or 0
end
