#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace {

constexpr int kSpins = 2000;  // pauses before a thread sleeps: within a network, the next operator starts sooner than that

struct Buffer {
  float* data = nullptr;
  int64_t size = 0;
  float* grown(int64_t floats) {
    if (floats > size) {
      free(data);
      size = 0;
      data = static_cast<float*>(aligned_alloc(64, ((floats * 4 + 4095) / 4096) * 4096));
      if (data == nullptr) throw std::bad_alloc();
      size = floats;
    }
    return data;
  }
};

std::vector<int> usable_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {0};
  for (int core = 0; core < CPU_SETSIZE; core++)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

void stay_on(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);
}

// While it lives, the thread that calls an operator is on its own core. Linux often wakes a worker on the caller's core,
// and then both take turns there for a whole network.
class CallersCore {
 public:
  explicit CallersCore(const std::vector<int>& cores) {
    if (cores.empty() || sched_getcpu() == cores[0] || sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    moved_ = CPU_ISSET(cores[0], &before_);
    if (moved_) stay_on(cores[0]);
  }
  ~CallersCore() {
    if (moved_) sched_setaffinity(0, sizeof before_, &before_);
  }

 private:
  cpu_set_t before_;
  bool moved_ = false;
};

struct Pool {
  std::mutex operator_mutex;
  std::mutex mutex;
  std::condition_variable wake, finished;
  std::vector<Buffer> scratch;
  Buffer workspace;
  int size;
  std::vector<int> cores;  // of each thread, the caller's first; empty if the pool has not all usable cores to itself
  std::atomic<uint64_t> generation{0};
  std::atomic<int64_t> next{0};
  std::atomic<int> busy{0};
  int64_t tasks = 0;
  const std::function<void(int64_t, int)>* body = nullptr;

  explicit Pool(int threads) : scratch(threads), size(threads), cores(usable_cores()) {
    if (int(cores.size()) != size) cores.clear();
    for (int worker = 1; worker < size; worker++) std::thread([this, worker] { serve(worker); }).detach();
  }
  void claim(int worker) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) (*body)(task, worker);
  }
  void serve(int worker) {
    uint64_t seen = 0;
    if (!cores.empty()) stay_on(cores[worker]);
    for (;;) {
      for (int i = 0; i < kSpins && generation.load(std::memory_order_acquire) == seen; i++) __builtin_ia32_pause();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return generation.load() != seen; });
      }
      seen = generation.load(std::memory_order_acquire);
      claim(worker);
      if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_one();
      }
    }
  }
  void run(int64_t count, const std::function<void(int64_t, int)>& work) {
    if (size == 1 || count == 1) {
      for (int64_t task = 0; task < count; task++) work(task, 0);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex);
      tasks = count;
      body = &work;
      next.store(0);
      busy.store(size - 1);
      generation.fetch_add(1);
    }
    const CallersCore core(cores);
    wake.notify_all();
    claim(0);
    for (int i = 0; i < kSpins && busy.load(std::memory_order_acquire) != 0; i++) __builtin_ia32_pause();
    if (busy.load(std::memory_order_acquire) != 0) {
      std::unique_lock<std::mutex> lock(mutex);
      finished.wait(lock, [&] { return busy.load() == 0; });
    }
  }
};

int requested_threads = 0;
Pool* pool = nullptr;

// A forked child has none of the threads, so it makes a pool at first use. It leaks its parent's pool on purpose.
void forget_pool() { pool = nullptr; }

Pool& the_pool() {
  static std::mutex making;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  std::lock_guard<std::mutex> lock(making);
  if (pool == nullptr) pool = new Pool(requested_threads > 0 ? requested_threads : int(usable_cores().size()));
  return *pool;
}

}  // namespace

void parallel(int64_t tasks, const std::function<void(int64_t, int)>& body) { the_pool().run(tasks, body); }
int pool_size() { return the_pool().size; }
OperatorLock::OperatorLock() { the_pool().operator_mutex.lock(); }
OperatorLock::~OperatorLock() { the_pool().operator_mutex.unlock(); }
float* worker_scratch(int worker, int64_t floats) { return the_pool().scratch[worker].grown(floats); }
float* shared_workspace(int64_t floats) { return the_pool().workspace.grown(floats); }

// Sets the number of threads, before the first operator runs; later it has no effect. Returns the number in use.
extern "C" int convnext_kernels_threads(int threads) {
  if (pool == nullptr && threads > 0) requested_threads = threads;
  return pool != nullptr ? pool->size : (requested_threads > 0 ? requested_threads : int(usable_cores().size()));
}
