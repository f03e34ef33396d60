-- Tells how much of each quota is in use. Changes nothing; may be sent again.
--
-- KEYS  1 lines   2 log of the egress group   3... logs of APIs
-- ARGV  2 the egress group   3... names of those APIs
-- Returns  {taken, waiting} for the group, then for each API: permits taken within the last second, and how many the
--          lines of all instances wait for

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
local lines = redis.call('HGETALL', KEYS[1])
for i = 1, #lines, 2 do
  local length, until_us = lines[i + 1]:match('^(%S+) (%S+)')
  if tonumber(until_us) >= now then
    local api, group = lines[i]:match('^(%S+) (%S+)')
    waiting['a' .. api] = (waiting['a' .. api] or 0) + tonumber(length)
    waiting['e' .. group] = (waiting['e' .. group] or 0) + tonumber(length)
  end
end

local uses = {{taken(KEYS[2]), waiting['e' .. ARGV[2]] or 0}}
for i = 3, #KEYS do
  uses[i - 1] = {taken(KEYS[i]), waiting['a' .. ARGV[i]] or 0}
end
return uses
