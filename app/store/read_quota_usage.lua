-- Reads how much of each quota is in use. Changes nothing; may be sent again.
--
-- `group`, `apis`: the names of the egress group and of the APIs
-- Returns {taken, waiting} for the group, then for each API: permits taken within the last second, and how many the
-- queues of all instances wait for.

local queues, group_log = unpack(KEYS)
local api_logs = {unpack(KEYS, 3)}
local group = unpack(ARGV, 2)
local apis = {unpack(ARGV, 3)}

local SECOND_US = 1000 * 1000

local now = now_us()

local function taken(log)
  local count = 0
  for _, taken_at in ipairs(redis.call('LRANGE', log, 0, -1)) do
    if tonumber(taken_at) <= now - SECOND_US then
      break
    end
    count = count + 1
  end
  return count
end

local waiting_for_api, waiting_in_group = {}, {}
local entries = redis.call('HGETALL', queues)
for i = 1, #entries, 2 do
  local its_api, its_group = entries[i]:match('^(%S+) (%S+)')
  local waiting, until_us = entries[i + 1]:match('^(%S+) (%S+)')
  if tonumber(until_us) >= now then
    waiting_for_api[its_api] = (waiting_for_api[its_api] or 0) + tonumber(waiting)
    waiting_in_group[its_group] = (waiting_in_group[its_group] or 0) + tonumber(waiting)
  end
end

local usage = {{taken(group_log), waiting_in_group[group] or 0}}
for i, log in ipairs(api_logs) do
  append(usage, {taken(log), waiting_for_api[apis[i]] or 0})
end
return usage
