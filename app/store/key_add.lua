-- Keeps a new API key under a name that no other has. May be sent again.
--
-- KEYS  1 API keys  2 their names
-- ARGV  2 key's ID   3 name   4 sealed record   5 most keys   6 who   7 detail for the audit
-- Returns 'done', 'taken' or 'full'.

local holder = redis.call('HGET', KEYS[2], ARGV[3])
if holder then
  return holder == ARGV[2] and 'done' or 'taken'
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
  return 'full'
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[2])
audit(ARGV[6], 'key_added', '', '', ARGV[7])
return 'done'
