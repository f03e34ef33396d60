-- Writes an operator's record, or removes it, if no operator was changed since the caller read them all: what was
-- decided by them still holds then, such as that an admin is left. The epoch is one for all operators and only rises.
-- Not to be sent again blindly: the second answer is 0.
--
-- KEYS  1 operators  2 last epoch
-- ARGV  2 last epoch the caller read; '': none was given yet   3 the next   4 name
--       5 the new record, which begins with that epoch; '': remove it
--       6 who   7 what the audit calls it   8 detail
-- Returns 1, or 0 if an operator was changed meanwhile.

if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[3])
if ARGV[5] == '' then
  redis.call('HDEL', KEYS[1], ARGV[4])
else
  redis.call('HSET', KEYS[1], ARGV[4], ARGV[5])
end
audit(ARGV[6], ARGV[7], '', '', ARGV[8])
return 1
