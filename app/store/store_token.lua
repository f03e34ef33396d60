-- Stores the cloud tokens that an application brought, if they are still wanted; else queues them for revocation. May be
-- sent again: a resend that finds its own record gets the same answer.
--
-- `request`: the random value under which this was applied for
-- `sealed`: the cloud tokens
-- `is_whole`: '1': all halves were obtained
-- Returns 'stored', or 'revoked': queued for the cloud and never handed out.

local device, token, grant, application = unpack(KEYS)
local request, handle, epoch, sealed, expires_at_ms, client_id, role, scope, is_whole,
  actor, request_id = unpack(ARGV, 2)

local record = read_fields(token, 'state', 'request', 'revocation', 'issued_at_ms', 'generation', 'priority', 'job')
if record.state == LIVE and record.request == request then
  return 'stored'
end
if record.revocation then -- an earlier sending queued it, and the outcome of that remains
  return 'revoked'
end

local applicant = redis.call('HGET', application, 'handle')

-- Whether a successor applies now, or has stored a token. A lease that ran out does not alone make tokens unwanted.
local function is_overtaken()
  if applicant and applicant ~= handle then
    return true
  end
  local current = redis.call('GET', grant)
  local issued_at_ms = current and redis.call('HGET', record_key(current), 'issued_at_ms') or 0
  return current and tonumber(issued_at_ms) > tonumber(record.issued_at_ms)
end

local is_own = record.state == APPLYING and record.request == request and not is_overtaken()
local is_below = is_below_watermark(role, record.generation)
local is_wanted = is_whole == '1' and is_own and not is_below and redis.call('HGET', device, 'epoch') == epoch

-- `request` too: the record may have expired while its applicant was paused, and this writes it again.
redis.call('HSET', token, 'sealed', sealed, 'expires_at_ms', expires_at_ms, 'request', request, 'epoch', epoch,
  'client_id', client_id, 'role', role, 'scope', scope)
expire_at(token, expires_at_ms + RECORD_KEPT_MS)
if applicant == handle then
  redis.call('DEL', application)
end

if is_wanted then
  redis.call('HSET', token, 'state', LIVE)
  redis.call('SET', grant, handle)
  expire_at(grant, expires_at_ms)
  index_record(handle, client_id, role, tonumber(expires_at_ms))
  audit{who = actor, request_id = request_id, what = 'granted', client_id = client_id, handle = handle,
    detail = string.sub(scope, 1, AUDIT_SCOPE_CHARS)}
  return 'stored'
end

-- A token that was merely overtaken was never handed out, so its revocation can wait.
local priority = tonumber(record.priority) or (is_below and PRIORITY_BULK or PRIORITY_DEVICE)
redis.call('HSET', token, 'state', REVOKED, 'priority', priority)
unindex_record(handle, client_id, role)
enqueue(handle, priority, expires_at_ms, record.job)
if record.state ~= REVOKED then -- else the audit has it since it was revoked
  audit{who = SERVER, request_id = request_id, what = 'discarded', client_id = client_id, handle = handle,
    detail = is_below and 'taken by a bulk revocation' or ''}
end
return 'revoked'
