-- Tells how much of each quota is in use. Changes nothing; may be sent again.
--
-- Returns  {taken, waiting} for the group, then for each API: permits taken within the last second, and how many the
--          lines of all instances wait for

local queues, group_log = unpack(KEYS)
local api_logs = {unpack(KEYS, 3)}
local group = unpack(ARGV, 2)
local apis = {unpack(ARGV, 3)}

local SECOND_US = 1000 * 1000

local now = now_us()

local function taken(log)
  local count = 0
  for _, time in ipairs(redis.call('LRANGE', log, 0, -1)) do
    if tonumber(time) <= now - SECOND_US then
      break
    end
    count = count + 1
  end
  return count
end

local waiting = {}
local lines = redis.call('HGETALL', queues)
for i = 1, #lines, 2 do
  local length, until_us = lines[i + 1]:match('^(%S+) (%S+)')
  if tonumber(until_us) >= now then
    local api, its_group = lines[i]:match('^(%S+) (%S+)')
    waiting['a' .. api] = (waiting['a' .. api] or 0) + tonumber(length)
    waiting['e' .. its_group] = (waiting['e' .. its_group] or 0) + tonumber(length)
  end
end

local uses = {{taken(group_log), waiting['e' .. group] or 0}}
for i, log in ipairs(api_logs) do
  uses[i + 1] = {taken(log), waiting['a' .. apis[i]] or 0}
end
return uses
