-- What all scripts but those of the cloud's quotas share, after _base.lua.

local now_ms = math.floor(now_us() / 1000)

local function record_key(handle)
  return shard .. 't:' .. handle
end

-- Sets when a key expires, in Unix ms of the shifted clock.
local function expire_at(key, at_ms)
  redis.call('PEXPIREAT', key, at_ms - ARGV[1])
end

-- Reads fields of a hash by their names; what is missing is nil.
local function read_fields(key, ...)
  local fields = {}
  local values = redis.call('HMGET', key, ...)
  for i, name in ipairs({...}) do
    fields[name] = values[i] or nil
  end
  return fields
end

-- Lua takes no call with more arguments than about 8,000.
local CHUNK = 1000

-- Calls `command` with the items of a list, a chunk at a time.
local function in_chunks(items, command)
  for first = 1, #items, CHUNK do
    command(unpack(items, first, math.min(#items, first + CHUNK - 1)))
  end
end

-- Appends an entry to the audit stream of the script's keys (audit.py) and returns its ID: `who` did `what`; the other
-- fields may be left out. `revoked` is how many tokens and applications that revoked, `job` the job it belongs to.
local function audit(entry)
  local fields = {'who', entry.who, 'what', entry.what, 'client_id', entry.client_id or '',
    'handle', entry.handle or '', 'detail', entry.detail or '', 'request_id', entry.request_id or ''}
  if entry.revoked then
    append(fields, 'revoked', entry.revoked)
  end
  if entry.job then
    append(fields, 'job', entry.job)
  end
  return redis.call('XADD', shard .. 'a', 'MAXLEN', '~', AUDIT_MAX_ENTRIES, '*', unpack(fields))
end

-- Uses an assertion up until `used_until_ms`, when it expires anyway; 0: there is none. First the device's record must be
-- the one under which the caller was verified. The same request may use it again: a command that is sent twice is not a
-- replay. Returns nothing, or why not: 'stale', 'expired' or 'used'. Expiry is judged here as well as by the instance,
-- whose clock may have stood still while its machine slept.
local function use_assertion(device, epoch, assertion, request, used_until_ms)
  if redis.call('HGET', device, 'epoch') ~= epoch then
    return 'stale'
  end
  used_until_ms = tonumber(used_until_ms)
  if used_until_ms == 0 then
    return nil
  end
  if used_until_ms <= now_ms then
    return 'expired'
  end
  local user = redis.call('SET', assertion, request, 'NX', 'GET', 'PX', math.ceil(used_until_ms - now_ms))
  if user and user ~= request then
    return 'used'
  end
  return nil
end

-- Whether a revocation of a role or of everything took a record of this generation: the count of such revocations when
-- its application began. A count and not a time: two that fall into one microsecond, or a clock set back, cannot mix up
-- what began before and what after.
local watermark_of_role = {}
local function is_below_watermark(role, generation)
  local watermark = watermark_of_role[role]
  if not watermark then
    local watermarks = redis.call('HMGET', shard .. 'watermarks', EVERYTHING, role)
    watermark = math.max(tonumber(watermarks[1] or 0), tonumber(watermarks[2] or 0))
    watermark_of_role[role] = watermark
  end
  return tonumber(generation or 0) < watermark
end

-- Returns {handle, expires_at_ms, sealed} of a record that is in this state, began under this epoch and is not below a
-- watermark; else nothing.
local function valid_record(handle, state, epoch)
  local found_state, found_epoch, role, generation, expires_at_ms, sealed = unpack(redis.call('HMGET',
    record_key(handle), 'state', 'epoch', 'role', 'generation', 'expires_at_ms', 'sealed'))
  if found_state == state and found_epoch == epoch and not is_below_watermark(role, generation) then
    return {handle = handle, expires_at_ms = expires_at_ms, sealed = sealed}
  end
end

-- Returns a grant's live token, or nothing: as valid_record, with its remaining_ms.
local function live_token(grant, epoch)
  local handle = redis.call('GET', grant)
  local token = handle and valid_record(handle, LIVE, epoch)
  if token then
    token.remaining_ms = token.expires_at_ms - now_ms
    return token
  end
end

-- The indexes that a revocation searches: of the device, of everything, of the role.
local function indexes(client_id, role)
  return {shard .. 'c:' .. client_id, shard .. 'x', shard .. 'r:' .. role}
end

-- Enters a record into its indexes until it expires; with `only` 'XX' moves it if it is there. It is never moved back:
-- who reads an index from front to end must meet everything that was in it.
local function index_record(handle, client_id, role, until_ms, only)
  for _, index in ipairs(indexes(client_id, role)) do
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now_ms)
    if only then
      redis.call('ZADD', index, only, 'GT', until_ms, handle)
    else
      redis.call('ZADD', index, 'GT', until_ms, handle)
    end
    local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')
    if last[2] then
      expire_at(index, last[2])
    end
  end
end

local function unindex_record(handle, client_id, role)
  for _, index in ipairs(indexes(client_id, role)) do
    redis.call('ZREM', index, handle)
  end
end

-- Counts what became of revocations for the job that they belong to, if they do.
local function count_for_job(job, what, by)
  if job and redis.call('HINCRBY', shard .. 'k:' .. job, what, by) == by then
    redis.call('PEXPIRE', shard .. 'k:' .. job, JOB_KEPT_MS)
  end
end

-- The queue's order: by priority, then the longest remaining life first.
local function queue_score(priority, expires_at_ms)
  return priority * PRIORITY_SPAN + PRIORITY_SPAN - expires_at_ms
end

local function enqueue(handle, priority, expires_at_ms, job)
  redis.call('HSET', record_key(handle), 'revocation', QUEUED)
  redis.call('ZADD', shard .. 'q', queue_score(priority, expires_at_ms), handle)
  count_for_job(job, QUEUED, 1)
end

-- Ends a revocation as CONFIRMED, LAPSED or DROPPED, and forgets the cloud token, which is worthless now.
local function finish_revocation(handle, outcome, who, request_id)
  local key = record_key(handle)
  local record = read_fields(key, 'state', 'client_id', 'job')
  if record.state then
    redis.call('HSET', key, 'revocation', outcome)
    redis.call('HDEL', key, 'sealed')
  end
  redis.call('ZREM', shard .. 'q', handle)
  redis.call('ZREM', shard .. 'qd', handle)
  if redis.call('ZREM', shard .. 'qf', handle) == 1 then
    count_for_job(record.job, FAILED, -1)
  end
  count_for_job(record.job, outcome, 1)
  audit{who = who, request_id = request_id, what = outcome, client_id = record.client_id, handle = handle,
    job = record.job}
end

local function mark_revoked(record, how)
  local fields = {'state', REVOKED, 'priority', how.priority}
  if record.state == LIVE then
    append(fields, 'revocation', QUEUED)
  end
  if how.job then
    append(fields, 'job', how.job)
    append(fields, 'revoked_in', how.entry_id)
  end
  redis.call('HSET', record_key(record.handle), unpack(fields))
end

-- Moves a revocation forward in the queue, if this priority goes before its own.
local function raise_priority(handle, record, priority)
  if priority < tonumber(record.priority or PRIORITY_DEVICE) then
    redis.call('HSET', record_key(handle), 'priority', priority)
    redis.call('ZADD', shard .. 'q', 'XX', queue_score(priority, record.expires_at_ms or 0), handle)
  end
end

-- Reads the records that `how` selects and that are not revoked yet. One that is revoked already may move forward in
-- the queue.
local function records_to_revoke(handles, how)
  local records = {}
  for _, handle in ipairs(handles) do
    local record = read_fields(record_key(handle),
      'state', 'client_id', 'role', 'expires_at_ms', 'priority', 'generation')
    local selected = record.state
      and (not how.only_below_watermark or is_below_watermark(record.role, record.generation))
    if selected and record.state == REVOKED then
      raise_priority(handle, record, how.priority)
    elseif selected then
      record.handle = handle
      append(records, record)
    end
  end
  return records
end

-- Records what was revoked: one entry a token, or one entry for a job's step, whose ID each token's record then holds.
local function audit_revoked(records, how)
  if how.job then
    how.entry_id = #records > 0 and audit{who = how.who, what = REVOKED, revoked = #records, job = how.job}
    return
  end
  for _, record in ipairs(records) do
    audit{who = how.who, request_id = how.request_id, what = REVOKED, client_id = record.client_id,
      handle = record.handle}
  end
end

-- Revokes records, and returns how many. A live one is queued for the cloud. One that is still being applied for is only
-- marked: when its cloud tokens arrive, store_token.lua queues them instead of handing them out.
-- `how`: `priority`; `who` revokes under which `request_id`; the `job` that counts it; `only_below_watermark`.
-- Indexes and queue are written once for all records: that is most of what a bulk revocation costs.
local function revoke(handles, how)
  local records, queued, removed = records_to_revoke(handles, how), {}, {}
  audit_revoked(records, how)
  for _, record in ipairs(records) do
    mark_revoked(record, how)
    if record.state == LIVE then
      append(queued, queue_score(how.priority, record.expires_at_ms), record.handle)
    end
    for _, index in ipairs(indexes(record.client_id, record.role)) do
      removed[index] = removed[index] or {}
      append(removed[index], record.handle)
    end
  end
  for index, members in pairs(removed) do
    in_chunks(members, function(...) redis.call('ZREM', index, ...) end)
  end
  in_chunks(queued, function(...) redis.call('ZADD', shard .. 'q', ...) end)
  if #queued > 0 then
    count_for_job(how.job, QUEUED, #queued / 2)
  end
  return #records
end

-- Returns how many entries a stream has ever been given.
local function added_entries(stream)
  local info = redis.call('XINFO', 'STREAM', stream)
  for place = 1, #info, 2 do
    if info[place] == 'entries-added' then
      return info[place + 1]
    end
  end
end
