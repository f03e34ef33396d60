-- Answers a token request that found no fresh token: with one all the same, the lead or the flight to wait for (DESIGN,
-- step 4). May be sent again with the same `request`, a random value: it gets the same answer.
--
-- `used_until_ms`: when the assertion expires anyway; 0: there is none (client_secret_basic)
-- `fresh_ms`: remaining life from which a token is handed out
-- `spare_ms`: remaining life that is enough where no new token can be had
-- `lease_ms`: 0: do not lead
-- `horizon_ms`: longest an application may take
--
-- Returns {'stale'} | {'used'} | {'expired'} | {STATUS, now_ms, wait_ms, flight, handle, expires_at_ms, sealed}
--   'live': hand out `handle`   'lead': apply, as `flight`   'wait': for `flight`
--   'failed': a flight just did, and `flight` says why
--   'limited': this device has had its share   'busy': it would have to lead, and was told not to.
--   All but the first carry a token with spare_ms left, or ''.

local device, assertion, grant, application, device_index, new_tokens = unpack(KEYS)
local request, epoch, used_until_ms, fresh_ms, spare_ms, new_handle, lease_ms, horizon_ms,
  client_id, role, scope, max_live, max_new_per_hour = unpack(ARGV, 2)

local refused = use_assertion(device, epoch, assertion, request, used_until_ms)
if refused then
  return {refused}
end

local token = live_token(grant, epoch)
if token and token.remaining_ms > tonumber(fresh_ms) then
  return {'live', now_ms, 0, '', token.handle, token.expires_at_ms, token.sealed}
end
if not token or token.remaining_ms < tonumber(spare_ms) then
  token = {handle = '', expires_at_ms = 0, sealed = ''}
end

local function answer(status, wait_ms, flight)
  return {status, now_ms, wait_ms, flight, token.handle, token.expires_at_ms, token.sealed}
end

local flight = redis.call('HMGET', application, 'handle', 'epoch', 'request', 'failed')
if flight[4] then
  return answer('failed', redis.call('PTTL', application), flight[4])
end
-- A flight with a tombstone, under a floor, or begun under another epoch brings nothing for us: lead in its place.
if flight[1] and flight[2] == epoch and standing(flight[1], 'applying', epoch) then
  return answer(flight[3] == request and 'lead' or 'wait', redis.call('PTTL', application), flight[1])
end

if tonumber(lease_ms) == 0 then
  return answer('busy', 0, '')
end

redis.call('ZREMRANGEBYSCORE', device_index, '-inf', now_ms)
if redis.call('ZCARD', device_index) >= tonumber(max_live) then
  -- What a floor took, and its job has not come to yet, is not held against the device.
  revoke(redis.call('ZRANGE', device_index, 0, -1), {priority = BULK, who = SERVER, only_below_watermark = true})
end
if redis.call('ZCARD', device_index) >= tonumber(max_live) then
  local first = redis.call('ZRANGE', device_index, 0, 0, 'WITHSCORES')
  return answer('limited', first[2] - now_ms, '')
end
if tonumber(redis.call('GET', new_tokens) or 0) >= tonumber(max_new_per_hour) then
  return answer('limited', redis.call('PTTL', new_tokens), '')
end
if redis.call('INCR', new_tokens) == 1 then
  redis.call('PEXPIRE', new_tokens, HOUR_MS)
end

local record = shard .. 't:' .. new_handle
redis.call('HSET', record, 'state', 'applying', 'request', request, 'epoch', epoch,
  'client_id', client_id, 'role', role, 'scope', scope, 'issued_at_ms', now_ms,
  'begun', redis.call('HGET', shard .. 'floors', '#') or 0)
redis.call('PEXPIRE', record, horizon_ms)
index(new_handle, client_id, role, now_ms + horizon_ms)
redis.call('DEL', application)
redis.call('HSET', application, 'handle', new_handle, 'epoch', epoch, 'request', request)
redis.call('PEXPIRE', application, lease_ms)
return answer('lead', 0, new_handle)
