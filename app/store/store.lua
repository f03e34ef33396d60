-- Stores what the cloud returned: only if the application is still wanted (DESIGN, step 7). May be sent again: a resend
-- that finds its own record gets the same answer.
--
-- Returns 'stored', or 'revoked': queued for the cloud and never handed out.

local device, token, grant, application = unpack(KEYS)
local request, handle, epoch, sealed, expires_at_ms, keep_ms, client_id, role, scope, is_whole,
  actor, request_id = unpack(ARGV, 2)

local record = redis.call('HMGET', token,
  'state', 'request', 'revocation', 'issued_at_ms', 'begun', 'priority', 'job')
if record[1] == 'live' and record[2] == request then
  return 'stored'
end
if record[3] then -- queued by this before, and what became of that stands
  return 'revoked'
end

-- A lapsed lease alone is no reason to throw tokens away: only a successor is, who leads now or has stored.
local leader = redis.call('HGET', application, 'handle')
local pointed = redis.call('GET', grant)
local newer = pointed and tonumber(redis.call('HGET', shard .. 't:' .. pointed, 'issued_at_ms') or 0)
local ours = record[1] == 'applying' and record[2] == request
  and (leader == handle or not leader)
  and (not newer or newer <= tonumber(record[4]))
local taken = swept(role, record[5])
local wanted = is_whole == '1' and ours and not taken and redis.call('HGET', device, 'epoch') == epoch

-- `request` too: the record may have expired while its leader was paused, and this makes it anew.
redis.call('HSET', token, 'sealed', sealed, 'expires_at_ms', expires_at_ms, 'request', request, 'epoch', epoch,
  'client_id', client_id, 'role', role, 'scope', scope)
redis.call('PEXPIREAT', token, expires_at_ms - ARGV[1] + keep_ms)
if leader == handle then
  redis.call('DEL', application)
end

if not wanted then
  -- What was merely overtaken nobody holds: it has time.
  local priority = tonumber(record[6]) or (taken and BULK or DEVICE)
  redis.call('HSETNX', token, 'revoked_at_ms', now_ms)
  redis.call('HSET', token, 'state', 'revoked', 'priority', priority)
  unindex(handle, client_id, role)
  enqueue(handle, priority, expires_at_ms, record[7])
  if record[1] ~= 'revoked' then -- a tombstone told it when it was laid
    audit{who = SERVER, request_id = request_id, what = 'discarded', client_id = client_id, handle = handle,
      detail = taken and 'taken by a large revocation' or ''}
  end
  return 'revoked'
end

redis.call('HSET', token, 'state', 'live')
redis.call('SET', grant, handle, 'PXAT', expires_at_ms - ARGV[1])
index(handle, client_id, role, tonumber(expires_at_ms))
audit{who = actor, request_id = request_id, what = 'granted', client_id = client_id, handle = handle,
  detail = string.sub(scope, 1, 200)}
return 'stored'
