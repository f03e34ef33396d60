-- Takes permits to call an API, towards its own limit and towards the egress group's: towards both, or none.
-- A permit is for a call now. A caller that has to wait holds nothing, and is answered when to ask again.
-- May be sent again: permits that a lost answer took are used for nothing.
--
-- A limit is kept by a log: it says of each permit until when it counts, and at most `limit` permits count at a time.
-- That is exact, whatever the jitter and validity that different instances state: only the permit that counts no longer
-- makes room for another. Beside it there is a pace, so that permits do not leave in one burst a second: one is due
-- every `interval_us`, and `due_us` is when the next is; they may be taken ahead of it by a short burst. Where instances
-- were given different limits, the lowest of those that wait holds for all, and the longest jitter.
--
-- A log has an entry "until_us permits" for each take, the newest first; entries closer than a millisecond are one where
-- a limit is above 1,000 permits, so it has no more than about 1,000 entries whatever the limit. Its state is "due_us
-- counted until_us": how many permits the log comes to, and the newest until.
--
-- `queue`: name of the caller's queue: API, egress group and instance, by spaces
-- `waiting`: permits that this queue waits for   `ready`: of them to be used at once; 0: the queue is only reported
-- `least`: to take, a multiple of it, or none   `rank`: CallRank of the first that is ready   `batch_us`: of the pace to take at most
-- `valid_us`: how old the permits may be when they are used   `lease_us`: of a probe
-- `own_api_limit`, `own_group_limit`: in calls a second, and `own_jitter_us`: as the caller was given them
-- Returns {taken, now, wait_us, API_QUEUES, GROUP_QUEUES, {pace, group_pace, full_pace}, instances, closed_us, is_probe}:
-- `wait_us` is 0, or when to ask again; the queues are how long the others are, for this API and in this group.

local api_log, api_state, group_log, group_state, queues, pace, server, group_breaker, own_breaker,
  instances = unpack(KEYS)
local queue, waiting, ready, least, rank, batch_us, valid_us, lease_us, own_api_limit, own_group_limit,
  own_jitter_us = unpack(ARGV, 2)
waiting, ready, least, rank = tonumber(waiting), tonumber(ready), tonumber(least), tonumber(rank)

local BURST_US = 50 * 1000
local MIN_WAIT_US = 1000
local MOST_SINGLE_ENTRIES = 1000
local ENTRIES_APART_US = 1000
-- More than windows differ by, for a call or a pair, with a second of jitter and 0.2 s of validity.
local LONGEST_WINDOWS = 2
local CLOCK_JUMP_US = 2 * SECOND_US
local RUN_ID_CHARS = 40
-- Oldest entries of a log that are read at once.
local FEW = 4

local own_api, own_group, own_instance = queue:match('^(%S+) (%S+) (%S+)')

-- The queues of the other instances, and what holds for all that wait.
local function read_others()
  local all = {api = {}, group = {}, reserved_api = 0, reserved_group = 0, api_limit = tonumber(own_api_limit),
    group_limit = tonumber(own_group_limit), jitter_us = tonumber(own_jitter_us), any_behind = false}
  for _, each in ipairs(read_queues(queues)) do
    -- Permits that are ready, of a better rank, are not taken from those before.
    local reserved = each.rank < rank and each.ready_at_us <= now and each.ready or 0
    if each.name == queue then
      all.own = each
    elseif not each.is_current then
      redis.call('HDEL', queues, each.name)
    else
      all.jitter_us = math.max(all.jitter_us, each.jitter_us)
      all.any_behind = all.any_behind or each.rank > rank and each.ready > 0
      if each.api == own_api then
        append(all.api, each.waiting)
        all.api_limit = math.min(all.api_limit, each.api_limit)
        all.reserved_api = all.reserved_api + reserved
      end
      if each.group == own_group then
        append(all.group, each.waiting)
        all.group_limit = math.min(all.group_limit, each.group_limit)
        all.reserved_group = all.reserved_group + reserved
      end
    end
  end
  return all
end

-- Forgets a log that was written before the clock was set back by far. What was taken last may have been taken just
-- now: the log is full for one window.
local function refill(bucket)
  bucket.counted, bucket.until_us, bucket.due_us = bucket.limit, now + bucket.window_us, now
  redis.call('DEL', bucket.log)
  redis.call('LPUSH', bucket.log, whole(bucket.until_us) .. ' ' .. whole(bucket.limit))
  redis.call('PEXPIRE', bucket.log, math.ceil(bucket.window_us / 1000))
  set_for(bucket.state, whole(now) .. ' ' .. whole(bucket.limit) .. ' ' .. whole(bucket.until_us), bucket.window_us)
end

local function open_bucket(log, state, state_text, limit, share, reserved, permit_us)
  -- A call for `least` at once must be possible, however low the limit: then they count for longer.
  local most = math.max(least, math.floor(limit))
  local interval_us = permit_us / (limit * share)
  local burst_us = math.max(BURST_US, (least - 1) * interval_us)
  local due_us, counted, until_us = (state_text or '0 0 0'):match('^(%S+) (%S+) (%S+)')
  local bucket = {
    log = log, state = state, reserved = reserved, counted = tonumber(counted), until_us = tonumber(until_us),
    limit = math.min(most, math.max(least, math.ceil(limit * share))),
    window_us = permit_us * math.max(1, most / limit),
    interval_us = interval_us,
    burst_us = burst_us,
    pace = SECOND_US / interval_us,
    -- Not further ahead than permits can be taken: the pace may have grown since.
    due_us = math.min(math.max(tonumber(due_us), now), now + burst_us + interval_us),
    entries = {}, expired = 0, removed = 0,
  }
  if bucket.until_us > now + LONGEST_WINDOWS * bucket.window_us + CLOCK_JUMP_US then
    refill(bucket)
  end
  return bucket
end

-- Returns until when the i-th oldest entry of a log counts, and how many permits it is; nothing if there are fewer.
local function oldest_entry(bucket, i)
  local entries = bucket.entries
  if i > #entries then
    local read = #entries - bucket.removed
    local older = redis.call('LRANGE', bucket.log, -read - FEW, -read - 1)
    for j = #older, 1, -1 do
      append(entries, older[j])
    end
  end
  if entries[i] then
    local until_us, permits = entries[i]:match('^(%S+) (%S+)')
    return tonumber(until_us), tonumber(permits)
  end
end

-- Leaves out what counts no longer: as much as `count` permits need, or a few, so that no log grows for ever.
local function make_room(bucket, count)
  while bucket.counted > 0 do
    local until_us, permits = oldest_entry(bucket, bucket.expired + 1)
    if not until_us then
      bucket.counted = 0
    elseif until_us > now or (bucket.expired >= FEW and bucket.limit - bucket.counted >= count) then
      break
    else
      bucket.counted, bucket.expired = bucket.counted - permits, bucket.expired + 1
    end
  end
end

-- How many of `count` permits pace and log allow now.
local function available(bucket, count)
  -- A microsecond more: `due_us` is kept in whole ones.
  local paced = math.floor((bucket.burst_us - (bucket.due_us - now) + 1) / bucket.interval_us) + 1
  make_room(bucket, count + bucket.reserved)
  return math.max(0, math.min(count, math.min(paced, bucket.limit - bucket.counted) - bucket.reserved))
end

-- When `count` permits are available, at the earliest.
local function available_at(bucket, count)
  count = count + bucket.reserved
  local at_us = bucket.due_us + (count - 1) * bucket.interval_us - bucket.burst_us
  local needed, i = math.min(count, bucket.limit) - (bucket.limit - bucket.counted), bucket.expired
  while needed > 0 do
    i = i + 1
    local until_us, permits = oldest_entry(bucket, i)
    if not until_us then
      break
    end
    needed, at_us = needed - permits, math.max(at_us, until_us)
  end
  return at_us
end

local function log_permits(bucket, count, until_us)
  if bucket.limit > MOST_SINGLE_ENTRIES and bucket.counted > 0 and until_us - bucket.until_us < ENTRIES_APART_US then
    local permits = redis.call('LINDEX', bucket.log, 0):match('^%S+ (%S+)')
    redis.call('LSET', bucket.log, 0, whole(until_us) .. ' ' .. whole(permits + count))
  else
    redis.call('LPUSH', bucket.log, whole(until_us) .. ' ' .. whole(count))
  end
end

local function take(bucket, count)
  if bucket.expired > 0 then
    redis.call('RPOP', bucket.log, bucket.expired)
    bucket.removed = bucket.expired
  end
  -- Never before the entry before it: the oldest makes room first.
  local until_us = math.max(bucket.until_us, now + bucket.window_us)
  log_permits(bucket, count, until_us)
  bucket.counted, bucket.until_us = bucket.counted + count, until_us
  bucket.due_us = bucket.due_us + count * bucket.interval_us
  redis.call('PEXPIRE', bucket.log, math.ceil((until_us - now) / 1000))
  set_for(bucket.state, whole(bucket.due_us) .. ' ' .. whole(bucket.counted) .. ' ' .. whole(until_us),
    math.max(until_us, bucket.due_us) - now)
end

-- Another Redis server may lack the permits that were logged last. Returns from when on they count no longer.
local function trusted_from(text, window_us)
  local info = redis.call('INFO', 'server')
  local _, before = info:find('run_id:', 1, true)
  local run_id = before and info:sub(before + 1, before + RUN_ID_CHARS) or 'unknown'
  local known, since_us = (text or ''):match('^(%S+) (%S+)')
  if known ~= run_id or tonumber(since_us) > now then
    since_us = now
    redis.call('SET', server, run_id .. ' ' .. whole(now))
  end
  return since_us + window_us + PERMIT_LONGEST_VALID_US
end

local function hold_lease(breaker)
  breaker.lease_until_us = now + lease_us
  redis.call('HSET', breaker.key, 'holder', own_instance, 'lease_until_us', whole(breaker.lease_until_us))
end

local function live_instances()
  local live = 0
  for _, text in ipairs(redis.call('HVALS', instances)) do
    live = live + (is_live(text) and 1 or 0)
  end
  return math.max(1, live)
end

-- Writes how much this queue waits for, where it differs from what the others know: a write may cost Redis an fsync.
local function write_own_queue(entry, known, took, any_behind)
  if entry.waiting == 0 then
    if known then
      redis.call('HDEL', queues, queue)
    end
    return
  end
  local is_news = not known or took or entry.until_us - known.until_us > QUEUE_KEPT_US / 2
    or entry.rank ~= known.rank or entry.ready ~= known.ready
    or any_behind and math.abs(entry.ready_at_us - known.ready_at_us) > MIN_WAIT_US
  if is_news then
    redis.call('HSET', queues, queue, queue_text(entry))
    redis.call('PEXPIRE', queues, math.ceil(QUEUE_KEPT_US / 1000))
  end
end

local others = read_others()
local stored = redis.call('MGET', api_state, group_state, pace, server)
local group_stop, own_stop = read_breaker(group_breaker), read_breaker(own_breaker)
local breaker = open_breaker(group_stop, own_stop)
local group_share = share_after_closing(group_stop)
local api_share = math.min(group_share, share_at(parse_pace(stored[3]), now))
local permit_us = counts_for_us(others.jitter_us, valid_us)
local api = open_bucket(api_log, api_state, stored[1], others.api_limit, api_share, others.reserved_api, permit_us)
local group = open_bucket(group_log, group_state, stored[2], others.group_limit, group_share, others.reserved_group,
  permit_us)

local trusted_from_us = trusted_from(stored[4], math.max(api.window_us, group.window_us))

-- Returns from when on permits are given at all: not at a server that may lack some, nor while the breaker is open.
local function given_from()
  return breaker and math.max(trusted_from_us, may_probe_at(breaker, own_instance)) or trusted_from_us
end

local function most_at_once()
  if breaker then
    return least
  end
  return math.min(ready, math.max(least, math.ceil(math.min(api.pace, group.pace) * batch_us / SECOND_US)))
end

-- Takes as many as there are, from both; returns how many.
local function take_from_both()
  local count = available(group, available(api, most_at_once()))
  -- Callers of two at once have no use for a single one that is left over.
  count = count - count % least
  if count < least then
    return 0
  end
  take(api, count)
  take(group, count)
  if breaker then
    hold_lease(breaker)
  end
  return count
end

local given_from_us = given_from()
local taken = 0
if ready >= least and given_from_us <= now then
  taken = take_from_both()
  given_from_us = given_from()
end

waiting, ready = waiting - taken, ready - taken
local next_count = taken == 0 and least or 1
local next_at_us = math.max(available_at(api, next_count), available_at(group, next_count), given_from_us)
local wait_us = 0
if waiting > 0 then
  wait_us = math.max(taken == 0 and MIN_WAIT_US or 0, math.ceil(next_at_us - now))
end

-- No more is kept for this queue than its API's pace allows it in a burst, and nothing while its breaker is open.
local kept = breaker and 0 or math.min(ready, math.max(least, math.floor(api.burst_us / api.interval_us) + 1))
write_own_queue({waiting = waiting, until_us = now + QUEUE_KEPT_US, api_limit = own_api_limit,
  group_limit = own_group_limit, jitter_us = own_jitter_us, rank = rank, ready = kept, ready_at_us = next_at_us},
  others.own, taken > 0, others.any_behind)

return {taken, now, wait_us, others.api, others.group,
  {tostring(api.pace), tostring(group.pace), tostring(SECOND_US * others.api_limit / permit_us)},
  live_instances(), closed_for_us(breaker, own_instance), breaker and taken > 0 and 1 or 0}
