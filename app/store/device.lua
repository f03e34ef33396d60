-- Writes a device's record, and revokes its tokens and flights in the same step where that is meant. The epoch only
-- ever rises, and never falls behind Redis's clock, so removing and adding again cannot bring an old one back.
-- Not to be sent again blindly: the second answer is 'conflict'.
--
-- KEYS  1 device  2 the shard's devices  3 device's index
-- ARGV  2 client ID   3 epoch the caller read; '': there must be no record   4 the new record; '': remove it
--       5 sealed key   6 '1': revoke everything the device holds
--       7 the key before this one, sealed, while it is still good; '': no other key is
--       8 who   9 what the audit calls it   10 detail
-- Returns  {'conflict'} | {'done', epoch, how many tokens and flights were revoked}

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if (epoch or '') ~= ARGV[3] then
  return {'conflict'}
end

local revoked = 0
if ARGV[6] == '1' then
  revoked = revoke(redis.call('ZRANGE', KEYS[3], 0, -1), OPERATOR, '', ARGV[8])
end

audit(ARGV[8], ARGV[9], ARGV[2], '', ARGV[10])
if ARGV[4] == '' then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[2])
  return {'done', '0', revoked}
end

local raised = string.format('%.0f', math.max(now_us(), (tonumber(epoch) or 0) + 1))
redis.call('HSET', KEYS[1], 'epoch', raised, 'record', ARGV[4], 'key', ARGV[5])
if ARGV[7] == '' then
  redis.call('HDEL', KEYS[1], 'previous')
else
  redis.call('HSET', KEYS[1], 'previous', ARGV[7])
end
redis.call('SADD', KEYS[2], ARGV[2])
return {'done', raised, revoked}
