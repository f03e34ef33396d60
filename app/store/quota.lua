-- Takes permits to call an API from its own bucket and from the egress group's: from both, or from neither.
-- A permit is for a call now; who has to wait holds nothing, and is told when to ask again.
-- May be sent again: what a lost answer took is used by nobody.
--
-- A bucket is a log of when permits were taken and an instant, `due`, up to which its pace is used up. The pace runs
-- ahead of the time by BURST_US at most; the log keeps the limit exactly: never more than LIMIT in LIMIT / PACE seconds.
-- Where instances have been told different limits, the lowest of those that wait holds for all.
--
-- Returns  {taken, wait_us, API_LINES, GROUP_LINES}
--       wait_us: 0, or when to ask again   API_LINES, GROUP_LINES: how long others' lines are, for this API and in this
--       group. A line that nobody speaks for is forgotten after a second.

local api_log, api_due, group_log, group_due, queues = unpack(KEYS)
local queue, wanted, least, most, own_api_limit, own_group_limit, pace_share = unpack(ARGV, 2)

local BURST_US = 50 * 1000
local LINE_LIVES_US = 1000 * 1000
local LEAST_WAIT_US = 1000
local JUMP_US = 2 * 1000 * 1000

local now = now_us()
least, most = tonumber(least), tonumber(most)
local api_limit, group_limit = tonumber(own_api_limit), tonumber(own_group_limit)

local api_name, group_name = queue:match('^(%S+) (%S+)')
local api_lines, group_lines, own_until = {}, {}, 0
local lines = redis.call('HGETALL', queues)
for i = 1, #lines, 2 do
  local length, until_us, of_api, of_group = lines[i + 1]:match('^(%S+) (%S+) (%S+) (%S+)')
  if lines[i] == queue then
    own_until = tonumber(until_us)
  elseif tonumber(until_us) < now then
    redis.call('HDEL', queues, lines[i])
  else
    local its_api, its_group = lines[i]:match('^(%S+) (%S+)')
    if its_api == api_name then
      table.insert(api_lines, tonumber(length))
      api_limit = math.min(api_limit, tonumber(of_api))
    end
    if its_group == group_name then
      table.insert(group_lines, tonumber(length))
      group_limit = math.min(group_limit, tonumber(of_group))
    end
  end
end

local function bucket(log, due, limit)
  local pace = limit * tonumber(pace_share)
  local newest = tonumber(redis.call('LINDEX', log, 0) or 0)
  if newest > now + JUMP_US then
    -- The clock was set back by far: what lies ahead of it would hold up every call until then.
    redis.call('DEL', log, due)
  else
    now = math.max(now, newest)
  end
  limit = math.max(least, math.floor(limit))
  return {
    log = log, due_key = due, due = tonumber(redis.call('GET', due) or 0),
    interval_us = 1000000 / pace, limit = limit, window_us = limit * 1000000 / pace,
    -- Several at once are one burst, however slow the pace.
    burst_us = math.max(BURST_US, (least - 1) * 1000000 / pace),
  }
end

-- How many of `count` may be taken now.
local function available(b, count)
  local ahead_us = math.max(b.due - now, 0)
  -- A microsecond more: `due` is kept in whole ones.
  local paced = math.floor((b.burst_us - ahead_us + 1) / b.interval_us) + 1
  count = math.min(count, paced, b.limit)
  if count < 1 then
    return 0
  end
  -- Who takes k permits needs the permit at `limit - k` out of the window; a log that is shorter has room.
  local logged = redis.call('LRANGE', b.log, b.limit - count, b.limit - 1)
  local room = count - #logged
  for i = #logged, 1, -1 do
    if tonumber(logged[i]) > now - b.window_us then
      break
    end
    room = room + 1
  end
  return room
end

-- When `count` may be taken, at the earliest.
local function ready_us(b, count)
  local paced = math.max(b.due, now) + (count - 1) * b.interval_us - b.burst_us
  local leaving = redis.call('LINDEX', b.log, b.limit - count)
  return math.max(paced, (tonumber(leaving or 0)) + b.window_us)
end

local function take(b, count)
  local times = {}
  for i = 1, count do
    times[i] = now
  end
  redis.call('LPUSH', b.log, unpack(times))
  redis.call('PEXPIRE', b.log, math.ceil(b.window_us / 1000))
  local gone = 0
  for _, time in ipairs(redis.call('LRANGE', b.log, -2 * count, -1)) do
    if tonumber(time) <= now - b.window_us then
      gone = gone + 1
    end
  end
  if gone > 0 then
    redis.call('RPOP', b.log, gone)
  end
  b.due = math.max(b.due, now) + count * b.interval_us
  redis.call('SET', b.due_key, string.format('%.0f', b.due), 'PX', math.max(1, math.ceil((b.due - now) / 1000)))
end

local api, group = bucket(api_log, api_due, api_limit), bucket(group_log, group_due, group_limit)

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
  local ready_at = math.max(ready_us(api, next_count), ready_us(group, next_count))
  wait_us = math.max(taken == 0 and LEAST_WAIT_US or 0, math.ceil(ready_at - now))
end

if waiting == 0 then
  if own_until > 0 then
    redis.call('HDEL', queues, queue)
  end
elseif taken > 0 or own_until < now + LINE_LIVES_US / 2 then
  -- Else nothing is written: a write may cost Redis an fsync.
  redis.call('HSET', queues, queue, string.format('%d %.0f %s %s', waiting, now + LINE_LIVES_US,
    own_api_limit, own_group_limit))
  redis.call('PEXPIRE', queues, LINE_LIVES_US / 1000)
end

return {taken, wait_us, api_lines, group_lines}
