-- Replaces an operator's record by another of the same epoch, if it is still the one that was read. May be sent again.
--
-- Returns 1, or 0 if it was changed or removed meanwhile.

local operators = unpack(KEYS)
local name, read_record, record = unpack(ARGV, 2)

if redis.call('HGET', operators, name) ~= read_record then
  return 0
end
redis.call('HSET', operators, name, record)
return 1
