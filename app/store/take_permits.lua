-- Takes permits to call an API from its own bucket and from the egress group's: from both, or from neither.
-- A permit is for a call now. A caller that has to wait holds nothing, and is answered when to ask again.
-- May be sent again: permits that a lost answer took are used for nothing.
--
-- A bucket has two limits. Its pace: a permit is due every `interval_us`, and `due` is when the next is; permits may be
-- taken ahead of it by a burst. Its window: in `window_us` never more than `limit` permits, exactly; a log of when
-- permits were taken shows it. Where instances were given different limits, the lowest of those that wait holds for all.
--
-- `queue`: name of the caller's queue: API, egress group and a random part, by spaces
-- `wanted`: permits that this queue waits for   `least`, `most`: to take now
-- `own_api_limit`, `own_group_limit`: in calls a second, as the caller was given them
-- Returns {taken, wait_us, API_QUEUES, GROUP_QUEUES}: `wait_us` is 0, or when to ask again; the last two are how long
-- the other queues are, for this API and in this group. A queue whose instance is silent for a second is forgotten.

local api_log, api_due, group_log, group_due, queues = unpack(KEYS)
local queue, wanted, least, most, own_api_limit, own_group_limit = unpack(ARGV, 2)
wanted, least, most = tonumber(wanted), tonumber(least), tonumber(most)

local BURST_US = 50 * 1000
local QUEUE_KEPT_US = 1000 * 1000
local MIN_WAIT_US = 1000
local CLOCK_JUMP_US = 2 * 1000 * 1000

local now = now_us()

-- The queues of all instances: how long the others are, until when the caller's is known, and the lowest limits.
local api_limit, group_limit = tonumber(own_api_limit), tonumber(own_group_limit)
local api_queues, group_queues, own_until_us = {}, {}, 0

local function read_queues()
  local api, group = queue:match('^(%S+) (%S+)')
  local entries = redis.call('HGETALL', queues)
  for i = 1, #entries, 2 do
    local its_api, its_group = entries[i]:match('^(%S+) (%S+)')
    local waiting, until_us, its_api_limit, its_group_limit = entries[i + 1]:match('^(%S+) (%S+) (%S+) (%S+)')
    if entries[i] == queue then
      own_until_us = tonumber(until_us)
    elseif tonumber(until_us) < now then
      redis.call('HDEL', queues, entries[i])
    else
      if its_api == api then
        append(api_queues, tonumber(waiting))
        api_limit = math.min(api_limit, tonumber(its_api_limit))
      end
      if its_group == group then
        append(group_queues, tonumber(waiting))
        group_limit = math.min(group_limit, tonumber(its_group_limit))
      end
    end
  end
end

local function write_own_queue(waiting, taken)
  if waiting == 0 then
    if own_until_us > 0 then
      redis.call('HDEL', queues, queue)
    end
  elseif taken > 0 or own_until_us < now + QUEUE_KEPT_US / 2 then
    -- Else nothing is written: a write may cost Redis an fsync.
    redis.call('HSET', queues, queue,
      string.format('%d %.0f %s %s', waiting, now + QUEUE_KEPT_US, own_api_limit, own_group_limit))
    redis.call('PEXPIRE', queues, QUEUE_KEPT_US / 1000)
  end
end

-- Returns when the last permit was taken. If Redis's clock was set back by far since, the bucket is emptied: what is
-- ahead of the clock would hold up every call until then.
local function last_taken(log, due)
  local last = tonumber(redis.call('LINDEX', log, 0) or 0)
  if last > now + CLOCK_JUMP_US then
    redis.call('DEL', log, due)
    return 0
  end
  return last
end

local function open_bucket(log, due, limit)
  local interval_us = 1000000 / (limit * PACE)
  -- A call for `least` at once must be possible, however low the limit.
  limit = math.max(least, math.floor(limit))
  return {
    log = log,
    due_key = due,
    due = math.max(tonumber(redis.call('GET', due) or 0), now),
    interval_us = interval_us,
    burst_us = math.max(BURST_US, (least - 1) * interval_us),
    limit = limit,
    window_us = limit * interval_us,
  }
end

-- How many of `count` permits the pace and the window allow now.
local function available(bucket, count)
  -- A microsecond more: `due` is kept in whole ones.
  local paced = math.floor((bucket.burst_us - (bucket.due - now) + 1) / bucket.interval_us) + 1
  count = math.min(count, paced, bucket.limit)
  if count < 1 then
    return 0
  end
  -- Before k permits are taken, the one at `limit - k` must have left the window; a shorter log has room.
  local leaving = redis.call('LRANGE', bucket.log, bucket.limit - count, bucket.limit - 1)
  local room = count - #leaving
  for i = #leaving, 1, -1 do
    if tonumber(leaving[i]) > now - bucket.window_us then
      break
    end
    room = room + 1
  end
  return room
end

-- When `count` permits are available, at the earliest.
local function available_at(bucket, count)
  local paced = bucket.due + (count - 1) * bucket.interval_us - bucket.burst_us
  local leaving = tonumber(redis.call('LINDEX', bucket.log, bucket.limit - count) or 0)
  return math.max(paced, leaving + bucket.window_us)
end

local function take(bucket, count)
  local logged
  for _ = 1, count do
    logged = redis.call('LPUSH', bucket.log, now)
  end
  if logged > bucket.limit then
    redis.call('LTRIM', bucket.log, 0, bucket.limit - 1)
  end
  redis.call('PEXPIRE', bucket.log, math.ceil(bucket.window_us / 1000))
  bucket.due = bucket.due + count * bucket.interval_us
  redis.call('SET', bucket.due_key, string.format('%.0f', bucket.due),
    'PX', math.max(1, math.ceil((bucket.due - now) / 1000)))
end

read_queues()
-- Permits are logged in order, also when Redis's clock was set back a little.
now = math.max(now, last_taken(api_log, api_due), last_taken(group_log, group_due))
local api = open_bucket(api_log, api_due, api_limit)
local group = open_bucket(group_log, group_due, group_limit)

local taken = available(group, available(api, most))
if taken < least then
  taken = 0
else
  take(api, taken)
  take(group, taken)
end

local waiting = wanted - taken
local wait_us = 0
if waiting > 0 then
  local next_count = taken == 0 and least or 1
  local next_at = math.max(available_at(api, next_count), available_at(group, next_count))
  wait_us = math.max(taken == 0 and MIN_WAIT_US or 0, math.ceil(next_at - now))
end
write_own_queue(waiting, taken)

return {taken, wait_us, api_queues, group_queues}
