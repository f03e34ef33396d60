-- Adds an API key under a name that no other has. May be sent again.
--
-- Returns 'done', 'taken' or 'full'.

local api_keys, names = unpack(KEYS)
local key_id, name, sealed, max_keys, actor, request_id, detail = unpack(ARGV, 2)

local owner = redis.call('HGET', names, name)
if owner then
  return owner == key_id and 'done' or 'taken'
end
if redis.call('HLEN', api_keys) >= tonumber(max_keys) then
  return 'full'
end
redis.call('HSET', api_keys, key_id, sealed)
redis.call('HSET', names, name, key_id)
audit{who = actor, request_id = request_id, what = 'key_added', detail = detail}
return 'done'
