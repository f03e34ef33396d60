-- Ends an application that brought nothing. Its mark keeps the waiting requests from applying one after another. May be
-- sent again.
--
-- `mark_ms`: how long the mark stays; 0: none, so the next request applies
-- `reason`: for the waiting requests
-- `gives_back`: '1': the device did not cause the failure, so it does not count against its hourly share
-- Returns 1, or 0 when the lease is no longer this application's.

local application, token, new_tokens = unpack(KEYS)
local handle, mark_ms, reason, gives_back = unpack(ARGV, 2)

local record = read_fields(token, 'state', 'client_id', 'role')
if record.state == APPLYING then
  redis.call('DEL', token)
  unindex_record(handle, record.client_id, record.role)
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
