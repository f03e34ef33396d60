-- Answers a token request that found no fresh token: whether to apply, to wait for an application, or why there is none.
-- May be sent again with the same `request`, a random value: it gets the same answer.
--
-- `used_until_ms`: when the assertion expires anyway; 0: there is none (client_secret_basic)
-- `fresh_ms`: a token with more than this left is handed out
-- `spare_ms`: a token with this much left is enough where no new one can be had
-- `refuse_first_as`, `refuse_renewal_as`: '': it may apply; else the reason to answer 'failed' with where it would have
-- to apply: without a spare token, or with one
-- `new_handle`: to apply under
--
-- Returns {'stale'} | {'used'} | {'expired'} | {STATUS, now_ms, wait_ms, application, handle, expires_at_ms, sealed}:
--   'live'     hand out the token `handle`
--   'apply'    apply, under the handle `application`
--   'wait'     for the application of that handle
--   'failed'   an application failed just now, or it may not apply; `application` says why
--   'limited'  the device has had its share, for `wait_ms`
-- All but 'live' come with the spare token, if there is one; else the last three are empty.

local device, assertion, grant, application, device_index, new_tokens = unpack(KEYS)
local request, epoch, used_until_ms, fresh_ms, spare_ms, refuse_first_as, refuse_renewal_as,
  new_handle, client_id, role, scope, max_live, max_new_per_hour = unpack(ARGV, 2)

local token

local function answer(status, wait_ms, handle_or_reason)
  local given = token or {handle = '', expires_at_ms = 0, sealed = ''}
  return {status, now_ms, wait_ms, handle_or_reason, given.handle, given.expires_at_ms, given.sealed}
end

-- Returns the answer that an application which failed or is under way gives, if there is one. One that was revoked, is
-- below a watermark or began under another epoch gives no token to this request, which then applies in its place.
local function answer_of_application()
  local current = read_fields(application, 'handle', 'epoch', 'request', 'failed')
  local left_ms = redis.call('PTTL', application)
  if current.failed then
    return answer('failed', left_ms, current.failed)
  end
  if current.handle and current.epoch == epoch and valid_record(current.handle, APPLYING, epoch) then
    return answer(current.request == request and 'apply' or 'wait', left_ms, current.handle)
  end
end

-- Returns for how many ms the device has had its share of tokens: of live ones, or of new ones in this hour.
local function limited_ms()
  redis.call('ZREMRANGEBYSCORE', device_index, '-inf', now_ms)
  if redis.call('ZCARD', device_index) >= tonumber(max_live) then
    -- Records below a watermark that its job has not reached yet do not count against the device.
    revoke(redis.call('ZRANGE', device_index, 0, -1),
      {priority = PRIORITY_BULK, who = SERVER, only_below_watermark = true})
  end
  if redis.call('ZCARD', device_index) >= tonumber(max_live) then
    return redis.call('ZRANGE', device_index, 0, 0, 'WITHSCORES')[2] - now_ms
  end
  if tonumber(redis.call('GET', new_tokens) or 0) >= tonumber(max_new_per_hour) then
    return redis.call('PTTL', new_tokens)
  end
end

local function begin_application()
  if redis.call('INCR', new_tokens) == 1 then
    redis.call('PEXPIRE', new_tokens, HOUR_MS)
  end
  local record = record_key(new_handle)
  redis.call('HSET', record, 'state', APPLYING, 'request', request, 'epoch', epoch,
    'client_id', client_id, 'role', role, 'scope', scope, 'issued_at_ms', now_ms,
    'generation', redis.call('HGET', shard .. 'watermarks', GENERATION) or 0)
  redis.call('PEXPIRE', record, HORIZON_MS)
  index_record(new_handle, client_id, role, now_ms + HORIZON_MS)
  redis.call('DEL', application)
  redis.call('HSET', application, 'handle', new_handle, 'epoch', epoch, 'request', request)
  redis.call('PEXPIRE', application, LEASE_MS)
end

local refused = use_assertion(device, epoch, assertion, request, used_until_ms)
if refused then
  return {refused}
end
token = live_token(grant, epoch)
if token and token.remaining_ms > tonumber(fresh_ms) then
  return answer('live', 0, '')
end
if token and token.remaining_ms < tonumber(spare_ms) then
  token = nil
end
local of_application = answer_of_application()
if of_application then
  return of_application
end
local refuse_as = token and refuse_renewal_as or refuse_first_as
if refuse_as ~= '' then
  return answer('failed', 0, refuse_as)
end
local wait_ms = limited_ms()
if wait_ms then
  return answer('limited', wait_ms, '')
end
begin_application()
return answer('apply', 0, new_handle)
