// Kills writers of a slab file in the middle of their work, again and again, and opens the file after each: a page that is found
// is right to the last byte, whatever its writer was doing, and none was named by the index before it was whole.
//
//   g++ -std=c++20 -pthread tests/native/slab_kill_test.cc native/addon/slab_{driver,file,index,pages,room,sectors}.cc
//     native/addon/io_{faults,ring,threads}.cc native/addon/failure.cc -o slab_kill_test && ./slab_kill_test FOLDER KILLS
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <random>
#include <string>
#include <thread>

#include "../../native/addon/slab_driver.h"

namespace {

using namespace kvasir::addon;

constexpr uint32_t kPages = 32, kRoom = 12, kPageSize = 16;

struct Case {
  EngineChoice engine;
  uint64_t page_bytes;  // a multiple of a sector goes straight to the disk, others are copied
};

SlabOptions options_of(const Case& of, const std::string& path) {
  SlabOptions options;
  options.path = path;
  options.page_bytes = of.page_bytes;
  options.page_size = kPageSize;
  options.max_bytes = SlabLayout{round_up(of.page_bytes, kSector)}.file_bytes(kRoom);
  options.identity = "slab_kill_test";
  options.engine = of.engine;
  return options;
}

// Every byte follows from the page and the place.
void fill(char* memory, uint32_t page, uint64_t bytes) {
  std::mt19937 random(page + 1);
  for (uint64_t at = 0; at < bytes; at += 4) {
    const uint32_t word = random();
    std::memcpy(memory + at, &word, std::min<uint64_t>(4, bytes - at));
  }
}

PageKey key_of(uint32_t page) {
  PageKey key;
  std::mt19937 random(page + 1000);
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  return key;
}

std::shared_ptr<PageBatch> batch_of(BatchKind kind, const std::vector<uint32_t>& pages, char* memory, uint64_t page_bytes,
                                    std::vector<uint8_t>& statuses) {
  auto batch = std::make_shared<PageBatch>();
  batch->kind = kind;
  batch->page_bytes = page_bytes;
  statuses.assign(pages.size(), 0xee);
  batch->statuses = statuses.data();
  for (const uint32_t page : pages) {
    batch->keys.push_back(key_of(page));
    batch->parents.push_back(key_of(page + 1).bytes);
    for (uint32_t i = 0; i < kPageSize; ++i) batch->tokens.push_back(static_cast<int32_t>(page * 100 + i));
    batch->memory.push_back(memory + page * page_bytes);
  }
  return batch;
}

bool open(SlabDriver& driver) {
  std::promise<SlabDriver::Opened> opened;
  driver.open([&](SlabDriver::Opened answer) { opened.set_value(std::move(answer)); });
  const SlabDriver::Opened answer = opened.get_future().get();
  if (answer.code != nullptr || !answer.found_identity.empty())
    printf("FAILED  %s%s\n", answer.sentence.c_str(), answer.found_identity.c_str());
  return answer.code == nullptr && answer.found_identity.empty();
}

void run(SlabDriver& driver, const std::shared_ptr<PageBatch>& batch) {
  std::promise<void> done;
  batch->done = [&] { done.set_value(); };
  driver.submit(batch);
  done.get_future().wait();
}

// Never returns: stores and removes until it is killed. A byte in `ready` says that it has begun.
[[noreturn]] void write_for_ever(const Case& of, const std::string& path, char* memory, uint32_t seed, int ready) {
  SlabDriver driver(options_of(of, path));
  if (!open(driver) || write(ready, "!", 1) != 1) {
    fflush(stdout);
    _exit(9);
  }
  const auto work = [&](uint32_t own_seed) {
    std::mt19937 random(own_seed);
    std::vector<uint8_t> statuses;
    while (true) {
      std::vector<uint32_t> pages(1 + random() % 6);
      for (uint32_t& page : pages) page = random() % kPages;
      run(driver, batch_of(BatchKind::store, pages, memory, of.page_bytes, statuses));
      pages.resize(1);
      if (random() % 3 == 0) run(driver, batch_of(BatchKind::remove, pages, memory, of.page_bytes, statuses));
    }
  };
  std::thread other(work, seed + 1);
  work(seed);
  std::abort();  // no one gets here
}

// Pages that were found, or -1 where one was wrong.
int verify(const Case& of, const std::string& path, const char* right) {
  SlabDriver driver(options_of(of, path));
  if (!open(driver)) return -1;
  const AlignedBytes memory = aligned_bytes(kPages * of.page_bytes);
  std::vector<uint32_t> pages;
  for (uint32_t page = 0; page < kPages; ++page) pages.push_back(page);
  std::vector<uint8_t> statuses;
  run(driver, batch_of(BatchKind::load, pages, reinterpret_cast<char*>(memory.get()), of.page_bytes, statuses));
  int found = 0;
  for (const uint32_t page : pages) {
    const bool is_there = statuses[page] == static_cast<uint8_t>(PageStatus::loaded);
    const uint64_t at = page * of.page_bytes;
    const bool is_right = !is_there || std::memcmp(memory.get() + at, right + at, of.page_bytes) == 0;
    if (!is_right || (!is_there && statuses[page] != static_cast<uint8_t>(PageStatus::missing))) {
      printf("FAILED  page %u: status %u, bytes %s\n", page, statuses[page], is_right ? "right" : "wrong");
      return -1;
    }
    found += is_there;
  }
  return found;
}

int kill_one(const Case& of, const std::string& path, char* memory, std::mt19937& random) {
  int ends[2];
  if (pipe(ends) != 0) return -1;
  const uint32_t seed = random();
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) write_for_ever(of, path, memory, seed, ends[1]);
  close(ends[1]);
  char ready = 0;
  const bool has_begun = read(ends[0], &ready, 1) == 1;
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 15000));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  close(ends[0]);
  const bool was_killed = has_begun && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  if (!was_killed) printf("FAILED  the writer ended by itself: %x\n", static_cast<unsigned>(status));
  return was_killed ? verify(of, path, memory) : -1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const int kills = std::atoi(arguments[2]);
  const Case cases[] = {
      {EngineChoice::any, 262144}, {EngineChoice::any, 100001}, {EngineChoice::threads, 262144}, {EngineChoice::threads, 100001}};
  std::mt19937 random(static_cast<uint32_t>(getpid()));
  int found = 0, failed = 0;
  for (size_t i = 0; i < std::size(cases); ++i) {
    const AlignedBytes memory = aligned_bytes(kPages * cases[i].page_bytes);
    for (uint32_t page = 0; page < kPages; ++page)
      fill(reinterpret_cast<char*>(memory.get()) + page * cases[i].page_bytes, page, cases[i].page_bytes);
    const std::string path = std::string(arguments[1]) + "/killed-" + std::to_string(i);
    for (int kill = 0; kill < kills / 4; ++kill) {
      const int here = kill_one(cases[i], path, reinterpret_cast<char*>(memory.get()), random);
      if (here < 0) ++failed;
      found += std::max(0, here);
    }
    unlink(path.c_str());
  }
  printf("%d kills, %d pages found, %d failed\n", kills / 4 * 4, found, failed);
  return failed == 0 ? 0 : 1;
}
