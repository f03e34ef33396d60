-- Reads how much of each quota is in use. Changes nothing; may be sent again.
--
-- `group`, `apis`: the names of the egress group and of the APIs
-- Returns {counted, waiting, share} for the group, then for each API: permits that count towards the limit now, how many
-- the queues of all instances wait for, and the share of the full pace that is in force.

local queues, group_breaker, group_log = unpack(KEYS)
local api_logs = {unpack(KEYS, 4)}
local group = unpack(ARGV, 2)
local apis = {unpack(ARGV, 3)}

local function counted(log)
  local count = 0
  for _, entry in ipairs(redis.call('LRANGE', log, 0, -1)) do
    local until_us, permits = entry:match('^(%S+) (%S+)')
    if tonumber(until_us) <= now then
      break
    end
    count = count + permits
  end
  return count
end

local waiting_for_api, waiting_in_group = {}, {}
for _, each in ipairs(read_queues(queues)) do
  if each.is_current then
    waiting_for_api[each.api] = (waiting_for_api[each.api] or 0) + each.waiting
    waiting_in_group[each.group] = (waiting_in_group[each.group] or 0) + each.waiting
  end
end

local group_share = share_after_closing(read_breaker(group_breaker))
local usage = {{counted(group_log), waiting_in_group[group] or 0, tostring(group_share)}}
for i, log in ipairs(api_logs) do
  local share = math.min(group_share, share_at(parse_pace(redis.call('GET', shard .. 'pace:' .. apis[i])), now))
  append(usage, {counted(log), waiting_for_api[apis[i]] or 0, tostring(share)})
end
return usage
