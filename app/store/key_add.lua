-- Keeps a new API key under a name that no other has. May be sent again.
--
-- Returns 'done', 'taken' or 'full'.

local api_keys, names = unpack(KEYS)
local key_id, name, sealed, most_keys, actor, request_id, detail = unpack(ARGV, 2)

local holder = redis.call('HGET', names, name)
if holder then
  return holder == key_id and 'done' or 'taken'
end
if redis.call('HLEN', api_keys) >= tonumber(most_keys) then
  return 'full'
end
redis.call('HSET', api_keys, key_id, sealed)
redis.call('HSET', names, name, key_id)
audit{who = actor, request_id = request_id, what = 'key_added', detail = detail}
return 'done'
