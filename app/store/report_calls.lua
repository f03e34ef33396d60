-- Reports what became of an instance's calls to the cloud: backs off where an API refused them by Throttling, opens and
-- closes the breaker, and keeps the instance among the live ones of its egress group. May be sent again.
--
-- The breaker of the group opens when its calls fail by connection: none was answered for two seconds, and at least two
-- instances fail, or only one is live. An instance that is alone in failing opens its own. An answer closes it.
--
-- `answered`, `failed`: whether a call was, since the last report   `failing_us`: since the first that failed without an
-- answer since, or 0   `probe`: what became of this instance's: answered, failed, unsent or nothing   `reason`: of the
-- last failure   `spread`: what a pause is multiplied by
-- `throttled`: an API, and when the permit of its last throttled call was taken, and so on
-- Returns {is_failing, scope, closed_us, reason, opened_at_ms, change, changed_at}: whose breaker is open (group,
-- instance or nothing), for how long this instance has no probe, why and since when it is open or was; and what this
-- instance changed last (opened, closed or nothing) at which instant: two changes differ in it.

local group_breaker, own_breaker, instances = unpack(KEYS)
local instance, answered, failed, failing_us, probe, reason, spread = unpack(ARGV, 2)
local throttled = {unpack(ARGV, 9)}

local MILLISECOND_US = 1000

local SHRINK_BY = 0.7
local CEILING = 0.9

local OPEN_AFTER_US = 2 * SECOND_US
local PAUSES_S = {2, 5, 10, 20, 40, LONGEST_PAUSE_S}
-- An instance that made no call for longer is not counted as failing.
local FAILING_KEPT_US = 10 * SECOND_US
-- Open without any report; closed, longer than the pace needs to be full again.
local OPEN_KEPT_US = 120 * SECOND_US
local CLOSED_KEPT_US = 10 * SECOND_US

-- Shrinks the share of an API's pace, once for all calls that were sent before, or within a second after: those say
-- nothing of the smaller one.
local function back_off(api, taken_at_us)
  local key = shard .. 'pace:' .. api
  local pace = parse_pace(redis.call('GET', key))
  if pace and taken_at_us < pace.shrunk_at_us + SECOND_US then
    return
  end
  local failed_share = share_at(pace, math.min(taken_at_us, now))
  local share, ceiling = SHRINK_BY * failed_share, CEILING * failed_share
  if share < MIN_SHARE then
    -- Calls are refused whatever the pace: that one of them was so at the least pace says nothing of a ceiling.
    share, ceiling = MIN_SHARE, CEILING
  end
  pace = {share = share, ceiling = ceiling}
  local full_after_s = 1 + doubling_s(pace) + (1 - ceiling) / GROWTH_A_SECOND
  set_for(key, string.format('%.6f %.6f %.0f', pace.share, ceiling, now), full_after_s * SECOND_US)
end

local function parse_instance(text)
  local answered_at_us, failing_since_us, failed_at_us = text:match('^%S+ (%S+) (%S+) (%S+)')
  return {
    answered_at_us = math.min(tonumber(answered_at_us), now),
    failing_since_us = math.min(tonumber(failing_since_us), now),
    failed_at_us = math.min(tonumber(failed_at_us), now),
  }
end

-- Reads the live instances, and forgets the others.
local function read_group()
  local group = {live = 1, failing = 0, answered_at_us = 0, own = parse_instance('0 0 0 0')}
  local entries = redis.call('HGETALL', instances)
  for i = 1, #entries, 2 do
    local each = parse_instance(entries[i + 1])
    if entries[i] == instance then
      group.own = each
    elseif not is_live(entries[i + 1]) then
      redis.call('HDEL', instances, entries[i])
    else
      group.live = group.live + 1
      group.answered_at_us = math.max(group.answered_at_us, each.answered_at_us)
      if each.failing_since_us > 0 and each.failed_at_us > now - FAILING_KEPT_US then
        group.failing = group.failing + 1
      end
    end
  end
  return group
end

-- Enters this instance among the live ones.
local function write_own(own, is_stopped)
  if answered == '1' then
    own.answered_at_us = now
  end
  own.failing_since_us = tonumber(failing_us) > 0 and now - failing_us or 0
  -- While its own breaker is open it makes no calls that could fail.
  if failed == '1' or is_stopped then
    own.failed_at_us = now
  end
  redis.call('HSET', instances, instance, string.format('%.0f %.0f %.0f %.0f', now + INSTANCE_KEPT_US,
    own.answered_at_us, own.failing_since_us, own.failed_at_us))
  redis.call('PEXPIRE', instances, math.ceil(INSTANCE_KEPT_US / 1000))
end

local function keep(key, kept_us)
  redis.call('PEXPIRE', key, math.ceil(kept_us / 1000))
end

local function pause_us(failures)
  return PAUSES_S[math.min(failures, #PAUSES_S)] * spread * SECOND_US
end

local function open(key)
  redis.call('DEL', key)
  redis.call('HSET', key, 'probe_at_us', whole(now + pause_us(1)), 'failures', 1, 'reason', reason,
    'opened_at_us', whole(now), 'changed_at_us', whole(now), 'changed_by', instance)
  keep(key, OPEN_KEPT_US)
end

local function close(breaker)
  redis.call('HDEL', breaker.key, 'probe_at_us', 'failures', 'holder', 'lease_until_us', 'failed_by')
  redis.call('HSET', breaker.key, 'closed_at_us', whole(now), 'changed_at_us', whole(now), 'changed_by', instance)
  keep(breaker.key, CLOSED_KEPT_US)
end

-- Keeps an open breaker, and draws the conclusion of what became of calls and of this instance's probe.
local function follow(breaker, others)
  if answered == '1' or probe == 'answered' then
    close(breaker)
    return
  end
  -- Who cannot even connect holds no lease: it asked for no permit.
  local has_probed = breaker.holder == instance or may_probe_at(breaker, instance) <= now
  if has_probed and (probe == 'failed' or probe == 'unsent') then
    redis.call('HDEL', breaker.key, 'holder', 'lease_until_us')
    if probe == 'failed' then
      local failures = redis.call('HINCRBY', breaker.key, 'failures', 1)
      redis.call('HSET', breaker.key, 'probe_at_us', whole(now + pause_us(failures)), 'failed_by',
        others and instance or '')
    end
  end
  keep(breaker.key, OPEN_KEPT_US)
end

-- Returns whose breaker has to open: the group's, this instance's own, or none.
local function to_open(group, own)
  if failed ~= '1' or tonumber(failing_us) < OPEN_AFTER_US then
    return nil
  end
  local is_silent = math.max(group.answered_at_us, own.answered_at_us) <= now - OPEN_AFTER_US
  if is_silent and (group.failing > 0 or group.live == 1) then
    return group_breaker
  end
  -- Where others fail too it is alone only if some were answered well after its own calls began to fail.
  if group.failing == 0 or group.answered_at_us > own.failing_since_us + OPEN_AFTER_US then
    return own_breaker
  end
end

local function changed_last(...)
  local last = {}
  for _, breaker in ipairs({...}) do
    if breaker.changed_by == instance and tonumber(breaker.changed_at_us) > tonumber(last.changed_at_us or 0) then
      last = breaker
    end
  end
  return last
end

for i = 1, #throttled, 2 do
  back_off(throttled[i], tonumber(throttled[i + 1]))
end

local group = read_group()
local group_stop, own_stop = read_breaker(group_breaker), read_breaker(own_breaker)
-- What failed before a breaker closed is over. An instance may not have learned yet that it closed.
for _, breaker in ipairs({group_stop or {}, own_stop or {}}) do
  if breaker.closed_at_us then
    failing_us = math.min(failing_us, now - breaker.closed_at_us)
  end
end
write_own(group.own, own_stop and own_stop.is_open)
if group_stop and group_stop.is_open then
  redis.call('DEL', own_breaker)
  follow(group_stop, group.live > 1)
elseif own_stop and own_stop.is_open and to_open(group, group.own) ~= group_breaker then
  follow(own_stop, false)
else
  local key = to_open(group, group.own)
  if key then
    open(key)
  end
end

group_stop, own_stop = read_breaker(group_breaker), read_breaker(own_breaker)
local breaker = open_breaker(group_stop, own_stop)
local scope = breaker and (breaker == group_stop and 'group' or 'instance') or ''
local shown = breaker or group_stop or own_stop or {}
local changed = changed_last(group_stop or {}, own_stop or {})
local change = changed.key and (changed.is_open and 'opened' or 'closed') or ''
local is_failing = group.failing > 0 or group.own.failing_since_us > 0

return {is_failing and 1 or 0, scope, closed_for_us(breaker, instance), shown.reason or '',
  math.floor((shown.opened_at_us or 0) / MILLISECOND_US), change, changed.changed_at_us or '0'}
