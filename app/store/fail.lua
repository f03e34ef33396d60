-- Ends a flight that brought nothing. Its mark keeps the waiting requests from leading one after another. May be sent
-- again.
--
-- Returns 1, or 0 when the lead is no longer ours.

local application, token, new_tokens = unpack(KEYS)
local handle, mark_ms, reason, gives_back = unpack(ARGV, 2)

local record = redis.call('HMGET', token, 'state', 'client_id', 'role')
if record[1] == 'applying' then
  redis.call('DEL', token)
  unindex(handle, record[2], record[3])
  if gives_back == '1' and tonumber(redis.call('GET', new_tokens) or 0) > 0 then
    redis.call('DECR', new_tokens)
  end
end
if redis.call('HGET', application, 'handle') ~= handle then
  return 0
end
redis.call('DEL', application)
if tonumber(mark_ms) > 0 then
  redis.call('HSET', application, 'failed', reason)
  redis.call('PEXPIRE', application, mark_ms)
end
return 1
