-- What the scripts of the cloud's quotas share (quota.py). Times ending in `_us` are microseconds of Redis's clock. A
-- time that lies further ahead than it can was written before the clock was set back: it is corrected, or forgotten.

local SECOND_US = 1000 * 1000

local now = now_us()

-- Reads a whole hash; nothing if there is none.
local function read_hash(key)
  local pairs_of_it = redis.call('HGETALL', key)
  if #pairs_of_it == 0 then
    return nil
  end
  local fields = {}
  for i = 1, #pairs_of_it, 2 do
    fields[pairs_of_it[i]] = pairs_of_it[i + 1]
  end
  return fields
end

local function whole(number)
  return string.format('%.0f', number)
end

local function set_for(key, text, kept_us)
  redis.call('SET', key, text, 'PX', math.max(1, math.ceil(kept_us / 1000)))
end

-- A permit counts for the second that a limit is for, and for as much longer as calls may be moved together on the way
-- to the cloud: by the spread of the delay, and by how old a permit may be when it is used.
local function counts_for_us(jitter_us, valid_us)
  return SECOND_US + jitter_us + valid_us + PERMIT_ROUNDING_US
end

-- QUEUES: an instance's queue for an API, as its value in the hash of all. `rank` is that of the first permit that would
-- be used at once; `ready` of them may be taken from `ready_at_us` on, as far as known.
local QUEUE_KEPT_US = SECOND_US

local function queue_text(queue)
  return string.format('%d %.0f %s %s %d %d %d %.0f', queue.waiting, queue.until_us, queue.api_limit,
    queue.group_limit, queue.jitter_us, queue.rank, queue.ready, queue.ready_at_us)
end

local function parse_queue(name, text)
  local queue = {name = name}
  queue.api, queue.group = name:match('^(%S+) (%S+)')
  local waiting, until_us, api_limit, group_limit, jitter_us, rank, ready, ready_at_us = text:match(
    '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)')
  queue.waiting, queue.until_us = tonumber(waiting), tonumber(until_us)
  queue.api_limit, queue.group_limit, queue.jitter_us = tonumber(api_limit), tonumber(group_limit), tonumber(jitter_us)
  queue.rank, queue.ready, queue.ready_at_us = tonumber(rank), tonumber(ready), tonumber(ready_at_us)
  queue.is_current = queue.until_us > now and queue.until_us <= now + 2 * QUEUE_KEPT_US
  return queue
end

-- Returns the queues of all instances; also those that are not current any more.
local function read_queues(key)
  local entries, found = redis.call('HGETALL', key), {}
  for i = 1, #entries, 2 do
    append(found, parse_queue(entries[i], entries[i + 1]))
  end
  return found
end

-- BACK-OFF: an API's share of its pace, "share ceiling shrunk_at_us". A call that was refused by Throttling makes it
-- smaller; it stays for a second, doubles each second up to the ceiling, and then grows slowly to the whole.
local MIN_SHARE = 0.02
local GROWTH_A_SECOND = 0.002

-- Nothing where the pace is full.
local function parse_pace(text)
  local share, ceiling, shrunk_at_us = (text or ''):match('^(%S+) (%S+) (%S+)')
  if not share or tonumber(shrunk_at_us) > now + SECOND_US then
    return nil
  end
  return {share = tonumber(share), ceiling = tonumber(ceiling), shrunk_at_us = tonumber(shrunk_at_us)}
end

local function doubling_s(pace)
  return math.max(0, math.log(pace.ceiling / pace.share) / math.log(2))
end

local function share_at(pace, at_us)
  if not pace then
    return 1
  end
  local grown_s = (at_us - pace.shrunk_at_us) / SECOND_US - 1
  local slowly_s = grown_s - doubling_s(pace)
  if slowly_s < 0 then
    return pace.share * 2 ^ math.max(0, grown_s)
  end
  return math.min(1, math.max(pace.share, pace.ceiling) + GROWTH_A_SECOND * slowly_s)
end

-- BREAKER: a hash. Open it has `probe_at_us`; closed, `closed_at_us`, until the pace is full again.
local LONGEST_AHEAD_US = LONGEST_PAUSE_S * MAX_PAUSE_SPREAD * SECOND_US
local FIRST_SHARE = 0.1

-- Returns 0 for an instant that is further ahead than it can be.
local function possible(instant_us, longest_ahead_us)
  instant_us = tonumber(instant_us or 0)
  return instant_us <= now + longest_ahead_us and instant_us or 0
end

local function read_breaker(key)
  local breaker = read_hash(key)
  if not breaker then
    return nil
  end
  breaker.key = key
  breaker.is_open = breaker.probe_at_us ~= nil
  breaker.probe_at_us = possible(breaker.probe_at_us, LONGEST_AHEAD_US)
  breaker.lease_until_us = possible(breaker.lease_until_us, LONGEST_AHEAD_US)
  breaker.closed_at_us = possible(breaker.closed_at_us, 0)
  return breaker
end

-- Returns the one that is open: the group's before the instance's own.
local function open_breaker(group, own)
  return group and group.is_open and group or own and own.is_open and own or nil
end

-- Returns from when on an instance may probe. One whose probe failed leaves the next one to others for a second.
local function may_probe_at(breaker, instance)
  local at_us = math.max(breaker.probe_at_us, breaker.lease_until_us)
  if breaker.failed_by == instance then
    at_us = math.max(at_us, breaker.probe_at_us + SECOND_US)
  end
  return at_us
end

-- Returns for how long a breaker is closed to this instance: at least a microsecond, 0 if none is open.
local function closed_for_us(breaker, instance)
  return breaker and math.max(1, math.ceil(may_probe_at(breaker, instance) - now)) or 0
end

-- Returns the share of all paces of a group whose breaker has just closed.
local function share_after_closing(breaker)
  if not breaker or breaker.is_open then
    return 1
  end
  return math.min(1, FIRST_SHARE * 2 ^ ((now - breaker.closed_at_us) / SECOND_US))
end

-- INSTANCES: in the hash of those of a group, "until_us answered_at_us failing_since_us failed_at_us".
local INSTANCE_KEPT_US = 3 * SECOND_US

local function is_live(instance_text)
  local until_us = tonumber(instance_text:match('^%S+'))
  return until_us > now and until_us <= now + 2 * INSTANCE_KEPT_US
end
