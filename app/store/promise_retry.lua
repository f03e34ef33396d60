-- Promises callers that are refused when to come back: each at an instant of its own, when all that wait now and all
-- that were promised before will have been served. No place is reserved. Sent again it promises later instants.
--
-- While a breaker is open its callers are promised the time from its next probe on. That delays only those behind the
-- same breaker: until when they were promised to be served is kept for the group, or the instance, alone.
--
-- `queue`: name of the caller's queue: API, egress group and instance, by spaces   `permits`: for so many callers
-- `own_api_limit`, `own_group_limit`: in calls a second, and `own_jitter_us`: as the caller was given them
-- Returns {start_us, step_us}: the first comes back in `start_us`, each next `step_us` later.

local promise, group_promise, own_promise, pace, queues, api_state, group_state,
  group_breaker, own_breaker = unpack(KEYS)
local queue, permits, own_api_limit, own_group_limit, own_jitter_us = unpack(ARGV, 2)

-- Some never come back; while calls are stopped most of those have gone before.
local STEP = 0.93
local STEP_WHILE_STOPPED = 0.97
-- However much the other APIs of the group use, as much of its limit is left.
local LEAST_LEFT = 0.1
local CLOCK_JUMP_US = 2 * SECOND_US

local own_api, own_group, own_instance = queue:match('^(%S+) (%S+) (%S+)')
local permit_us = counts_for_us(own_jitter_us, PERMIT_VALID_US)
local pace_text, api_state_text, group_state_text = unpack(redis.call('MGET', pace, api_state, group_state))

-- Permits a second, of an API's limit or of the group's.
local function full_pace(limit)
  return SECOND_US * limit / permit_us
end

-- Permits that count now.
local function counted(state_text)
  local permits, until_us = (state_text or '0 0 0'):match('^%S+ (%S+) (%S+)')
  return tonumber(until_us) > now and tonumber(permits) or 0
end

-- How many permits are waited for, for this API and in this group.
local function waiting()
  local for_api, in_group = 0, 0
  for _, each in ipairs(read_queues(queues)) do
    if each.is_current and each.api == own_api then
      for_api = for_api + each.waiting
    end
    if each.is_current and each.group == own_group then
      in_group = in_group + each.waiting
    end
  end
  return for_api, in_group
end

-- The pace to promise by: the one that back-off grows to within seconds, and what other APIs leave of the group's.
local function promised_pace(group_pace)
  local shrunk = parse_pace(pace_text)
  local share = shrunk and math.max(shrunk.ceiling, share_at(shrunk, now)) or 1
  local others = math.max(0, counted(group_state_text) - counted(api_state_text)) * SECOND_US / permit_us
  return math.min(share * full_pace(own_api_limit), math.max(LEAST_LEFT * group_pace, group_pace - others))
end

-- Until when callers were promised to be served before, in the clock as it is now.
local function promised_before(key)
  local until_us, written_at_us = (redis.call('GET', key) or '0 0'):match('^(%S+) (%S+)')
  until_us, written_at_us = tonumber(until_us), tonumber(written_at_us)
  if written_at_us > now + CLOCK_JUMP_US then
    return until_us - written_at_us + now
  end
  return until_us
end

local group_pace = full_pace(own_group_limit)
local api_pace = promised_pace(group_pace)
local for_api, in_group = waiting()
local breaker = open_breaker(read_breaker(group_breaker), read_breaker(own_breaker))
local step_us = (breaker and STEP_WHILE_STOPPED or STEP) * SECOND_US / api_pace
-- While the breaker is open nothing is served before the next probe.
local begins_us = breaker and math.max(now, breaker.probe_at_us, breaker.lease_until_us) or now
local served_us = begins_us + SECOND_US * math.max(for_api / api_pace, in_group / group_pace)
local shared_us = math.max(promised_before(promise), served_us)

local function keep_promised(key, start_us)
  local until_us = start_us + permits * step_us
  set_for(key, whole(until_us) .. ' ' .. whole(now), until_us - now)
end

local start_us = shared_us
for _, key in ipairs({group_promise, own_promise}) do
  local delayed_us = promised_before(key)
  start_us = math.max(start_us, delayed_us)
  if not breaker and delayed_us > shared_us then
    keep_promised(key, delayed_us)
  end
end
if breaker then
  keep_promised(breaker.key == group_breaker and group_promise or own_promise, start_us)
else
  keep_promised(promise, shared_us)
end
return {math.ceil(start_us - now), tostring(step_us)}
