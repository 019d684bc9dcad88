-- Adds to a number that is stored as text, as scripts for Tokyo Tyrant did it: a global function of key and
-- value over the old globals, without locks, returning a number, or nil where it failed.
function incr(key, value)
   local delta = tonumber(value)
   if not delta then
      return nil
   end
   local sum = delta + (tonumber(_get(key)) or 0)
   if not _put(key, sum) then
      return nil
   end
   return sum
end
