-- Puts another record of the same epoch in an operator's place, if the one that was read still stands. May be sent again.
--
-- KEYS  1 operators
-- ARGV  2 name   3 record the caller read   4 new record
-- Returns 1, or 0 if it was changed or removed meanwhile.

if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
return 1
