-- Stores what the cloud returned: only if the application is still wanted (DESIGN, step 7). May be sent again: a resend
-- that finds its own record gets the same answer.
--
-- KEYS  1 device  2 token record  3 grant pointer  4 flight
-- ARGV  2 request   3 handle   4 epoch   5 sealed cloud tokens   6 expires_at_ms   7 keep_ms: how much longer the
--       record lives   8 client ID   9 role   10 scope   11 '1': all halves were obtained
-- Returns 'stored', or 'revoked': queued for the cloud and never handed out.

local record = redis.call('HMGET', KEYS[2],
  'state', 'request', 'revocation', 'issued_at_ms', 'begun', 'priority', 'job')
if record[1] == 'live' and record[2] == ARGV[2] then
  return 'stored'
end
if record[3] then -- queued by this before, and what became of that stands
  return 'revoked'
end

-- A lapsed lease alone is no reason to throw tokens away: only a successor is, who leads now or has stored.
local leader = redis.call('HGET', KEYS[4], 'handle')
local pointed = redis.call('GET', KEYS[3])
local newer = pointed and tonumber(redis.call('HGET', shard .. 't:' .. pointed, 'issued_at_ms') or 0)
local ours = record[1] == 'applying' and record[2] == ARGV[2]
  and (leader == ARGV[3] or not leader)
  and (not newer or newer <= tonumber(record[4]))
local taken = swept(ARGV[9], record[5])
local wanted = ARGV[11] == '1' and ours and not taken and redis.call('HGET', KEYS[1], 'epoch') == ARGV[4]

-- `request` too: the record may have expired while its leader was paused, and this makes it anew.
redis.call('HSET', KEYS[2], 'sealed', ARGV[5], 'expires_at_ms', ARGV[6], 'request', ARGV[2], 'epoch', ARGV[4],
  'client_id', ARGV[8], 'role', ARGV[9], 'scope', ARGV[10])
redis.call('PEXPIREAT', KEYS[2], ARGV[6] - ARGV[1] + ARGV[7])
if leader == ARGV[3] then
  redis.call('DEL', KEYS[4])
end

if not wanted then
  -- What was merely overtaken nobody holds: it has time.
  local priority = tonumber(record[6]) or (taken and BULK or DEVICE)
  redis.call('HSETNX', KEYS[2], 'revoked_at_ms', now_ms)
  redis.call('HSET', KEYS[2], 'state', 'revoked', 'priority', priority)
  unindex(ARGV[3], ARGV[8], ARGV[9])
  enqueue(ARGV[3], priority, ARGV[6], record[7])
  if record[1] ~= 'revoked' then -- a tombstone told it when it was laid
    audit('server', 'discarded', ARGV[8], ARGV[3], taken and 'taken by a large revocation' or '')
  end
  return 'revoked'
end

redis.call('HSET', KEYS[2], 'state', 'live')
redis.call('SET', KEYS[3], ARGV[3], 'PXAT', ARGV[6] - ARGV[1])
index(ARGV[3], ARGV[8], ARGV[9], tonumber(ARGV[6]))
audit('device:' .. ARGV[8], 'granted', ARGV[8], ARGV[3], string.sub(ARGV[10], 1, 200))
return 'stored'
