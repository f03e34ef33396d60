-- Removes an API key by its name. May be sent again; the second answer is 0.
--
-- KEYS  1 API keys  2 their names
-- ARGV  2 name   3 who
-- Returns 1, or 0 if there is none.

local id = redis.call('HGET', KEYS[2], ARGV[2])
if not id then
  return 0
end
redis.call('HDEL', KEYS[1], id)
redis.call('HDEL', KEYS[2], ARGV[2])
audit(ARGV[3], 'key_removed', '', '', ARGV[2])
return 1
